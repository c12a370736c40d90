//! The control socket: what somebody at another shell asks is answered, whatever the loop is at.
//!
//! It is the lock's socket. Each question is one line of JSON, and so is each answer. Root is
//! answered, and the user who runs this twindir; to others it says nothing. Each asker has a thread
//! of its own, so that one who never reads, or never asks, keeps nobody else waiting; there are at
//! most [`MOST_ASKERS`].

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::model::status::{State, Status, WaitResult};

/// Askers that may be connected at a time.
const MOST_ASKERS: usize = 64;

/// How long an asker may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is seen whether one who waits is still there.
const LOOK: Duration = Duration::from_secs(1);

/// A question is no longer than that, in bytes.
const LONGEST: u64 = 4096;

/// What can be asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    Status,
    /// Until every change made before is in the replica. `full`: and a full sweep has come to its
    /// end that began after this.
    Wait {
        full: bool,
        timeout_seconds: f64,
    },
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Status(Box<Status>),
    Waited(WaitResult),
    Refused(String),
}

/// What the loop is told by askers.
pub enum Request {
    Wait {
        id: u64,
        full: bool,
        answer: Sender<WaitResult>,
    },
    /// He waits no longer.
    GiveUp(u64),
}

/// The last status, for askers to read.
#[derive(Clone)]
pub struct Board(Arc<Mutex<(Instant, Status)>>);

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), Status::default()))))
    }
}

impl Board {
    pub fn set(&self, status: Status) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), status);
    }

    /// Changes are being followed.
    pub fn mark_busy(&self) {
        let (_, status) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        status.in_sync = false;
        if status.state == State::InSync {
            status.state = State::Busy;
        }
    }

    pub fn get(&self) -> Status {
        let (at, status) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.aged(at.elapsed())
    }
}

/// Answers those who connect.
#[derive(Clone)]
pub struct Desk {
    pub board: Board,
    pub requests: Sender<Request>,
    askers: Arc<AtomicUsize>,
    /// Numbers of those who wait.
    numbers: Arc<AtomicU64>,
}

impl Desk {
    pub fn new(board: Board, requests: Sender<Request>) -> Self {
        Self { board, requests, askers: Arc::default(), numbers: Arc::default() }
    }

    /// Takes on somebody who has connected.
    pub fn serve(&self, stream: UnixStream) {
        let Ok(asker) = rustix::net::sockopt::socket_peercred(&stream) else { return };
        let own = rustix::process::geteuid();
        if !asker.uid.is_root() && asker.uid != own {
            return;
        }
        if self.askers.fetch_add(1, Ordering::Relaxed) >= MOST_ASKERS {
            self.askers.fetch_sub(1, Ordering::Relaxed);
            let refused = Answer::Refused("too many ask at a time: try again".to_owned());
            let _ = write_answer(&stream, &refused);
            return;
        }
        let desk = self.clone();
        let thread = std::thread::Builder::new().name("twindir-asker".into());
        let started = thread.spawn(move || {
            // Who goes away while he is answered is no concern of ours.
            let _ = desk.answer(&stream);
            desk.askers.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            self.askers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn answer(&self, stream: &UnixStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        let answer = match serde_json::from_str(&line) {
            Ok(Question::Status) => Answer::Status(Box::new(self.board.get())),
            Ok(Question::Wait { full, timeout_seconds }) => {
                Answer::Waited(self.wait(stream, full, timeout_seconds)?)
            }
            Err(error) => Answer::Refused(format!("this is no question: {error}")),
        };
        write_answer(stream, &answer)
    }

    fn wait(
        &self,
        stream: &UnixStream,
        full: bool,
        timeout_seconds: f64,
    ) -> std::io::Result<WaitResult> {
        let (answer, answered) = bounded(1);
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        let is_over = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.requests.send(Request::Wait { id, full, answer }).map_err(|_| is_over())?;
        let patience = Duration::try_from_secs_f64(timeout_seconds).unwrap_or(Duration::MAX);
        let end = Instant::now().checked_add(patience);
        stream.set_nonblocking(true)?;
        let result = loop {
            let left = end.map_or(LOOK, |end| end.saturating_duration_since(Instant::now()));
            match answered.recv_timeout(left.min(LOOK)) {
                Ok(result) => break Ok(result),
                Err(RecvTimeoutError::Disconnected) => break Err(is_over()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                break Ok(WaitResult::TimedOut);
            }
            // He has gone away.
            let mut reader = stream;
            if matches!(reader.read(&mut [0]), Ok(0)) {
                break Err(is_over());
            }
        };
        if !matches!(result, Ok(WaitResult::Mirrored | WaitResult::Problem(_))) {
            let _ = self.requests.send(Request::GiveUp(id));
        }
        stream.set_nonblocking(false)?;
        result
    }
}

/// Writes an answer, as far as it is taken at once or within [`PATIENCE`].
fn write_answer(mut stream: &UnixStream, answer: &Answer) -> std::io::Result<()> {
    let mut text = serde_json::to_string(answer)?;
    text.push('\n');
    stream.write_all(text.as_bytes())
}
