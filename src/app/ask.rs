//! `--status` and `--wait`: requests to the twindir that keeps a replica.

use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use crate::app::cli::Inquiry;
use crate::daemon::control::{Answer, Question};
use crate::daemon::startup::{Refusal, socket_names};
use crate::fs::tree::absolute;
use crate::model::config::{Config, Format};
use crate::model::path::shown;
use crate::model::status::WaitResult;
use crate::report::time_of_day;

/// How long to wait for an answer that the other twindir can give at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// The result of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// In sync (`--status`), or all is mirrored (`--wait`).
    Yes,
    No,
    /// No twindir answers.
    Nobody,
}

/// Asks, and prints the answer.
pub fn inquire(inquiry: &Inquiry, format: Format) -> Asked {
    match inquiry {
        Inquiry::Status { replica } => print_status(replica, format),
        Inquiry::Wait { replica, full, timeout } => wait(replica, *full, *timeout, format),
    }
}

/// Refuses a run whose replica is the source of the twindir that mirrors to its source: each would
/// overwrite what the other one reads.
///
/// # Errors
/// [`Refusal::Ring`].
pub fn refuse_ring(config: &Config) -> Result<(), Refusal> {
    let Some(Answer::Status(other)) = ask(&config.source, &Question::Status, PATIENCE) else {
        return Ok(());
    };
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let own = real(&config.replica);
    if own.is_none() || own != real(Path::new(&other.source)) {
        return Ok(());
    }
    let (pid, source_root, replica) = (other.pid, other.source, other.replica);
    Err(Refusal::Ring { pid, source_root, replica })
}

/// Prints the status of the twindir that keeps `replica`.
fn print_status(replica: &Path, format: Format) -> Asked {
    let Some(Answer::Status(status)) = ask(replica, &Question::Status, PATIENCE) else {
        return nobody(replica);
    };
    match format {
        Format::Json => {
            say(&serde_json::to_string(&status).unwrap_or_default());
        }
        Format::Text => status.lines(&time_of_day).iter().for_each(|line| say(line)),
    }
    if status.in_sync { Asked::Yes } else { Asked::No }
}

/// Waits until every change made before is in the replica.
fn wait(replica: &Path, full: bool, timeout: Option<Duration>, format: Format) -> Asked {
    let timeout_seconds = timeout.map_or(f64::MAX, |timeout| timeout.as_secs_f64());
    let question = Question::Wait { full, timeout_seconds };
    let patience = timeout.map_or(Duration::MAX, |timeout| timeout.saturating_add(PATIENCE));
    let Some(Answer::Waited(result)) = ask(replica, &question, patience) else {
        return nobody(replica);
    };
    if format == Format::Json {
        say(&serde_json::to_string(&result).unwrap_or_default());
    }
    match result {
        WaitResult::Mirrored => return Asked::Yes,
        WaitResult::TimedOut if format == Format::Text => {
            complain("timed out: not all is mirrored yet");
        }
        WaitResult::Problem(problems) if format == Format::Text => {
            for problem in &problems {
                complain(problem);
            }
        }
        WaitResult::TimedOut | WaitResult::Problem(_) => {}
    }
    Asked::No
}

/// Returns the answer. `None` if no twindir is there, if it does not answer within `patience`, or
/// if it refuses to answer: then its reason is printed.
fn ask(replica: &Path, question: &Question, patience: Duration) -> Option<Answer> {
    let mut stream = socket_names(replica).find_map(|name| connect(&name, replica))?;
    stream.set_read_timeout(Some(patience).filter(|patience| *patience != Duration::MAX)).ok()?;
    let mut line = serde_json::to_string(question).ok()?;
    line.push('\n');
    stream.write_all(line.as_bytes()).ok()?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok()?;
    match serde_json::from_str(&answer).ok()? {
        Answer::Refused(why) => {
            complain(&why);
            None
        }
        answer => Some(answer),
    }
}

/// Connects to a socket by its abstract name. `None` if it belongs to another user than root and
/// this one: such a user may have made it to mislead us. Root also trusts the owner of the replica,
/// or of its nearest existing ancestor.
fn connect(name: &str, replica: &Path) -> Option<UnixStream> {
    let address = SocketAddr::from_abstract_name(name).ok()?;
    let stream = UnixStream::connect_addr(&address).ok()?;
    let keeper = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    let own = rustix::process::geteuid();
    let owner = || {
        let full = std::path::absolute(replica).ok()?;
        full.ancestors().find_map(|at| Some(at.metadata().ok()?.uid()))
    };
    let is_believed = keeper.uid.is_root()
        || keeper.uid == own
        || (own.is_root() && owner() == Some(keeper.uid.as_raw()));
    is_believed.then_some(stream)
}

fn nobody(replica: &Path) -> Asked {
    complain(&format!(
        "no twindir of this user mirrors to {}: check the path, or start one",
        shown(&absolute(replica))
    ));
    Asked::Nobody
}

/// Prints a line to stdout. A closed stdout is no reason to panic.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
