//! What the service manager is told: ready, the status, that the loop still turns, and the end.
//! See `sd_notify(3)`. A thread tells it, since one that does not listen must not stop the
//! mirroring.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use sd_notify::NotifyState;

use crate::model::status::Status;
use crate::report::time_of_day;

/// How often the status is said, at most.
const SAY: Duration = Duration::from_secs(1);

/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_millis(200);

enum Word {
    Ready,
    Status(String),
    Watchdog,
    /// The last one; the sender is told when it was said.
    Stopping(Sender<()>),
}

pub(super) struct ServiceManager {
    /// `None` where there is none.
    words: Option<Sender<Word>>,
    is_ready: bool,
    said: String,
    last: Option<Instant>,
    /// How often it wants to hear that the loop still turns, if it does, and when it last heard.
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
            // Without a thread nothing is told, and the manager says so.
            words: thread.and_then(Result::ok).map(|_| words),
            is_ready: false,
            said: String::new(),
            last: None,
            watchdog: sd_notify::watchdog_enabled().map(|time| time / 3),
            fed: None,
        }
    }

    /// The loop has come round once more.
    pub fn turn(&mut self, now: Instant) {
        let Some(watchdog) = self.watchdog else { return };
        if self.fed.is_none_or(|fed| now.duration_since(fed) >= watchdog) {
            self.fed = Some(now);
            self.say(Word::Watchdog);
        }
    }

    /// How often the loop has to turn.
    pub fn tick(&self) -> Duration {
        self.watchdog.unwrap_or(Duration::MAX)
    }

    pub fn update(&mut self, status: &Status, now: Instant) {
        if self.words.is_none() {
            return;
        }
        if status.has_walked && !self.is_ready {
            // What is not taken is said again.
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

    /// One that does not listen misses something.
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
