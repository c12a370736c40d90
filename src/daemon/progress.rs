//! What is shown of the state: the last status for those who ask, the live line of a terminal, and
//! elsewhere a line now and then while something takes long.

use std::time::{Duration, Instant};

use super::control::Board;
use crate::model::status::{State, Status};
use crate::report::{LiveLine, time_of_day};

/// How often a new status is worth building while much happens.
const PUBLISH: Duration = Duration::from_millis(50);

/// Work that takes longer than this gets a live line, which is drawn anew so often.
const LONG: Duration = Duration::from_secs(2);
const DRAW: Duration = Duration::from_millis(250);

/// Where there is no live line, a line is written so often while something takes long.
const SAY: Duration = Duration::from_secs(60);

/// For how long nothing is to be done before the line says so.
const IDLE: Duration = Duration::from_secs(1);

pub(super) struct Progress {
    board: Board,
    live: LiveLine,
    published: Option<Instant>,
    /// Whether something has happened since.
    is_stale: bool,
    /// Whether something is under way, and since when that is so, or is not.
    is_busy: bool,
    since: Instant,
    drawn: Option<(Instant, String)>,
    said: Instant,
}

impl Progress {
    pub fn new(board: Board, live: LiveLine, now: Instant) -> Self {
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

    /// Something has happened.
    pub fn mark_stale(&mut self) {
        self.is_stale = true;
    }

    /// A round begins: somebody who asks meanwhile is not to be told that nothing is to be done.
    pub fn mark_busy(&self) {
        self.board.mark_busy();
    }

    /// Whether it is time for a new status. `is_idle`: the loop is about to wait.
    pub fn is_due(&self, is_idle: bool, now: Instant) -> bool {
        let is_old = self.published.is_none_or(|at| now.duration_since(at) >= PUBLISH);
        is_old || (is_idle && self.is_stale)
    }

    /// How long the loop may wait at most, so that the live line lives.
    pub fn tick(&self) -> Duration {
        if self.is_busy && self.live.is_shown() { DRAW } else { Duration::from_secs(1) }
    }

    /// Shows how it stands.
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

    fn draw(&mut self, line: String, now: Instant) {
        if self.drawn.as_ref().is_none_or(|(_, drawn)| *drawn != line) {
            self.live.show(line.clone());
        }
        self.drawn = Some((now, line));
    }
}

/// Writes a line that says how it stands.
pub(super) fn say(status: &Status) {
    tracing::info!(op = "status", "{}", status.line(&time_of_day));
}
