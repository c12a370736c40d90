//! Messages to the service manager: ready, the status, the watchdog, and stopping. See
//! `sd_notify(3)`. A thread sends them, since a manager that does not read must not stop the
//! mirroring.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use sd_notify::NotifyState;

use crate::model::status::Status;
use crate::report::time_of_day;

/// The least time between two messages with a status.
const SAY: Duration = Duration::from_secs(1);

/// How long to wait until the last message is sent.
const LAST_WORD: Duration = Duration::from_millis(200);

enum Word {
    Ready,
    Status(String),
    Watchdog,
    /// The last message. The sender is notified when it was sent.
    Stopping(Sender<()>),
}

pub(super) struct ServiceManager {
    /// `None` if there is no service manager.
    words: Option<Sender<Word>>,
    is_ready: bool,
    said: String,
    last: Option<Instant>,
    /// The interval of watchdog messages (a third of the manager's timeout), and the last one.
    /// `None` if the manager expects none.
    watchdog: Option<Duration>,
    fed: Option<Instant>,
}

impl ServiceManager {
    pub fn start() -> Self {
        let is_there = std::env::var_os("NOTIFY_SOCKET").is_some();
        let (words, inbox) = bounded(8);
        let builder = std::thread::Builder::new().name("twindir-notify".into());
        let thread = is_there.then(|| builder.spawn(move || tell(&inbox)));
        Self {
            // Without a thread no message is sent. The manager then reports that the start has
            // failed.
            words: thread.and_then(Result::ok).map(|_| words),
            is_ready: false,
            said: String::new(),
            last: None,
            watchdog: sd_notify::watchdog_enabled().map(|time| time / 3),
            fed: None,
        }
    }

    /// Sends a watchdog message if one is due. The loop calls this once a turn.
    pub fn turn(&mut self, now: Instant) {
        let Some(watchdog) = self.watchdog else { return };
        if self.fed.is_none_or(|fed| now.duration_since(fed) >= watchdog) {
            self.fed = Some(now);
            self.say(Word::Watchdog);
        }
    }

    /// Returns the longest wait of the loop that keeps the watchdog fed.
    pub fn tick(&self) -> Duration {
        self.watchdog.unwrap_or(Duration::MAX)
    }

    pub fn update(&mut self, status: &Status, now: Instant) {
        if self.words.is_none() {
            return;
        }
        if status.has_walked && !self.is_ready {
            // A message that is dropped is sent again.
            self.is_ready = self.say(Word::Ready);
        }
        if self.last.is_some_and(|last| now.duration_since(last) < SAY) {
            return;
        }
        let line = status.line(&time_of_day);
        if line != self.said && self.say(Word::Status(line.clone())) {
            (self.said, self.last) = (line, Some(now));
        }
    }

    pub fn stop(&self) {
        let (said, is_said) = bounded(1);
        self.say(Word::Stopping(said));
        let _ = is_said.recv_timeout(LAST_WORD);
    }

    /// Sends a message. Returns whether that was possible: if the manager does not read, it is
    /// dropped.
    fn say(&self, word: Word) -> bool {
        self.words.as_ref().is_some_and(|words| words.try_send(word).is_ok())
    }
}

fn tell(inbox: &Receiver<Word>) {
    for word in inbox {
        let state = match &word {
            Word::Ready => NotifyState::Ready,
            Word::Status(line) => NotifyState::Status(line),
            Word::Watchdog => NotifyState::Watchdog,
            Word::Stopping(_) => NotifyState::Stopping,
        };
        let _ = sd_notify::notify(&[state]);
        if let Word::Stopping(said) = word {
            let _ = said.send(());
        }
    }
}
