//! The control socket: answers questions from other processes, even while the loop is busy.
//!
//! The socket is also the lock's. A question is one line of JSON, and so is its answer. Only root
//! and the user who runs this twindir get answers. Each asker has a thread of its own, so that a
//! slow one does not delay the others. At most [`MOST_ASKERS`] are connected at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::model::status::{State, Status, WaitResult};

/// The most askers that may be connected at a time.
const MOST_ASKERS: usize = 64;

/// How long an asker may take to send its question, and to receive the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often to check whether an asker that waits is still connected.
const POLL: Duration = Duration::from_secs(1);

/// The longest question, in bytes.
const LONGEST_QUESTION: u64 = 4096;

/// A question.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    Status,
    /// Waits until every change made before is in the replica. `full`: also until the end of a full
    /// sweep that begins after the question.
    Wait {
        full: bool,
        timeout_seconds: f64,
    },
}

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Status(Box<Status>),
    Waited(WaitResult),
    Refused(String),
}

/// A request of an asker to the loop.
pub enum Request {
    Wait {
        id: u64,
        full: bool,
        answer: Sender<WaitResult>,
    },
    /// The asker of this number no longer waits.
    GiveUp(u64),
}

/// The last status, for askers to read.
#[derive(Clone)]
pub struct StatusBoard(Arc<Mutex<(Instant, Status)>>);

impl Default for StatusBoard {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), Status::default()))))
    }
}

impl StatusBoard {
    pub fn set(&self, status: Status) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), status);
    }

    /// Notes that a round runs: until the next status is set, the replica is not in sync.
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

/// The service that answers those who connect.
#[derive(Clone)]
pub struct ControlServer {
    pub board: StatusBoard,
    pub requests: Sender<Request>,
    askers: Arc<AtomicUsize>,
    /// The number of the next asker that waits.
    numbers: Arc<AtomicU64>,
}

impl ControlServer {
    pub fn new(board: StatusBoard, requests: Sender<Request>) -> Self {
        Self { board, requests, askers: Arc::default(), numbers: Arc::default() }
    }

    /// Answers a new connection in a thread of its own. Closes it if it comes from another user, or
    /// if no thread can be started.
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
            // The asker may disconnect before the answer. That is no error.
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
        BufReader::new(stream.take(LONGEST_QUESTION)).read_line(&mut line)?;
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
            let left = end.map_or(POLL, |end| end.saturating_duration_since(Instant::now()));
            match answered.recv_timeout(left.min(POLL)) {
                Ok(result) => break Ok(result),
                Err(RecvTimeoutError::Disconnected) => break Err(is_over()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                break Ok(WaitResult::TimedOut);
            }
            // The asker has disconnected.
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

/// Writes an answer. Fails if the asker does not receive it within [`PATIENCE`].
fn write_answer(mut stream: &UnixStream, answer: &Answer) -> std::io::Result<()> {
    let mut text = serde_json::to_string(answer)?;
    text.push('\n');
    stream.write_all(text.as_bytes())
}
