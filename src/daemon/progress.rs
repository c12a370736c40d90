//! The display of the status: for those who ask, and as the live line of a terminal. Without a live
//! line, long work is logged now and then.

use std::time::{Duration, Instant};

use super::control::StatusBoard;
use crate::model::status::{State, Status};
use crate::report::{LiveLine, time_of_day};

/// The least time between two statuses while much happens.
const PUBLISH: Duration = Duration::from_millis(50);

/// How long work lasts before the live line shows it, and how often the line is drawn.
const LONG: Duration = Duration::from_secs(2);
const DRAW: Duration = Duration::from_millis(250);

/// How often long work is logged if there is no live line.
const SAY: Duration = Duration::from_secs(60);

/// How long nothing is done before the live line says so.
const IDLE: Duration = Duration::from_secs(1);

pub(super) struct Progress {
    board: StatusBoard,
    live: LiveLine,
    published: Option<Instant>,
    /// Whether something has happened since the last status.
    is_stale: bool,
    /// Whether work is under way, and since when that is so or not so.
    is_busy: bool,
    since: Instant,
    drawn: Option<(Instant, String)>,
    said: Instant,
}

impl Progress {
    pub fn new(board: StatusBoard, live: LiveLine, now: Instant) -> Self {
        Self {
            board,
            live,
            published: None,
            is_stale: true,
            is_busy: true,
            since: now,
            drawn: None,
            said: now,
        }
    }

    /// Notes that something has happened since the last status.
    pub fn mark_stale(&mut self) {
        self.is_stale = true;
    }

    /// Notes that a round begins. Those who ask meanwhile must not hear that nothing is to be done.
    pub fn mark_busy(&self) {
        self.board.mark_busy();
    }

    /// Returns whether it is time for a new status. `is_idle`: the loop is about to wait.
    pub fn is_due(&self, is_idle: bool, now: Instant) -> bool {
        let is_old = self.published.is_none_or(|at| now.duration_since(at) >= PUBLISH);
        is_old || (is_idle && self.is_stale)
    }

    /// Returns the longest wait of the loop that keeps the live line up to date.
    pub fn tick(&self) -> Duration {
        if self.is_busy && self.live.is_shown() { DRAW } else { Duration::from_secs(1) }
    }

    /// Shows a status.
    pub fn show(&mut self, status: Status, now: Instant) {
        self.published = Some(now);
        self.is_stale = false;
        let is_busy = status.walk.is_some()
            || matches!(
                status.state,
                State::Starting | State::Counting | State::FirstCopy | State::Busy
            );
        if is_busy != self.is_busy {
            (self.is_busy, self.since, self.said) = (is_busy, now, now);
        }
        let lasts = now.duration_since(self.since);
        if self.live.is_shown() {
            let is_drawn_lately =
                (self.drawn.as_ref()).is_some_and(|(at, _)| now.duration_since(*at) < DRAW);
            if lasts >= if is_busy { LONG } else { IDLE } && !is_drawn_lately {
                self.draw(status.line(&time_of_day), now);
            }
        } else if is_busy && now.duration_since(self.said) >= SAY {
            self.said = now;
            say(&status);
        }
        self.board.set(status);
    }

    /// Draws the live line again: the terminal has another size, or a shell has written over it.
    pub fn draw_again(&mut self) {
        if let Some((_, line)) = &self.drawn {
            self.live.show(line.clone());
        }
    }

    fn draw(&mut self, line: String, now: Instant) {
        if self.drawn.as_ref().is_none_or(|(_, drawn)| *drawn != line) {
            self.live.show(line.clone());
        }
        self.drawn = Some((now, line));
    }
}

/// Logs a status.
pub(super) fn say(status: &Status) {
    tracing::info!(op = "status", "{}", status.line(&time_of_day));
}
