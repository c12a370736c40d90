//! What is printed: medians, and what grows by how much.

use crate::Size;
use crate::median::median;
use crate::turn::Turn;

/// A figure with its name.
pub struct Column {
    pub name: &'static str,
    pub of: fn(&Turn) -> f64,
}

/// In seconds.
pub const TIMES: [Column; 3] = [
    Column { name: "full sweep", of: |turn| turn.sweep.seconds },
    Column { name: "quick sweep", of: |turn| turn.quick.seconds },
    Column { name: "start with the watch", of: |turn| turn.watched.seconds },
];

/// Of the daemon with the watch: seconds on a core, and per cent of one.
const WORK: [Column; 2] = [
    Column { name: "CPU of the start", of: |turn| turn.watched.cpu },
    Column { name: "CPU at rest, % of one core", of: |turn| turn.watched.idle },
];

const WATCHED: Column = Column { name: "watched, at rest", of: |turn| turn.watched.memory as f64 };
const BY_INTERVAL: Column = Column { name: "by interval", of: |turn| turn.sweeping.memory as f64 };

/// In bytes.
pub const MEMORY: [Column; 6] = [
    Column { name: "full sweep, peak", of: |turn| turn.sweep.peak as f64 },
    Column { name: "quick sweep, peak", of: |turn| turn.quick.peak as f64 },
    WATCHED,
    Column { name: "watched, peak", of: |turn| turn.watched.peak as f64 },
    BY_INTERVAL,
    Column { name: "by interval, peak", of: |turn| turn.sweeping.peak as f64 },
];

impl Size {
    /// The median of a figure.
    pub fn median(&self, column: &Column) -> f64 {
        median(&self.turns.iter().map(column.of).collect::<Vec<_>>())
    }
}

pub fn print(sizes: &[Size]) {
    println!("\n## Time: median of seconds\n");
    print_head(
        &["files", "directories"],
        TIMES.iter().chain(&WORK).map(|column| column.name.to_owned()),
    );
    for size in sizes {
        let times =
            TIMES.iter().chain(&WORK[..1]).map(|column| format!("{:.3}", size.median(column)));
        let idle = format!("{:.4}", size.median(&WORK[1]));
        print_row(size, times.chain([idle]));
    }
    println!("\n## Resident memory: median of MB\n");
    print_head(&["files", "directories"], MEMORY.iter().map(|column| column.name.to_owned()));
    for size in sizes {
        print_row(size, MEMORY.iter().map(|column| format!("{:.1}", size.median(column) / 1e6)));
    }
    if sizes.len() > 1 {
        print_time_growth(sizes);
        print_memory_growth(sizes);
    }
}

fn print_time_growth(sizes: &[Size]) {
    println!("\n## From size to size: µs a file / exponent\n");
    print_head(&["from", "to"], TIMES.iter().map(|column| column.name.to_owned()));
    for pair in sizes.windows(2) {
        print_step(pair, |step| {
            let cells = TIMES.iter().map(|column| {
                let (micros, exponent) = (1e6 * step.per_file(column), step.exponent(column));
                format!("{micros:.2} / {exponent:.2}")
            });
            cells.collect()
        });
    }
}

fn print_memory_growth(sizes: &[Size]) {
    println!("\n## From size to size: bytes a file / a directory\n");
    let watch = "what the watch adds, at rest".to_owned();
    print_head(&["from", "to"], MEMORY.iter().map(|column| column.name.to_owned()).chain([watch]));
    for pair in sizes.windows(2) {
        print_step(pair, |step| {
            let grown = MEMORY.iter().map(|column| step.grown(column));
            let watch = step.grown(&WATCHED) - step.grown(&BY_INTERVAL);
            let cell = |bytes| format!("{:.2} / {:.0}", bytes / step.files(), bytes / step.dirs());
            grown.chain([watch]).map(cell).collect()
        });
    }
}

fn print_head(keys: &[&str], names: impl Iterator<Item = String>) {
    let names: Vec<String> = keys.iter().map(|key| (*key).to_owned()).chain(names).collect();
    println!("| {} |", names.join(" | "));
    println!("|{}", " ---: |".repeat(names.len()));
}

fn print_row(size: &Size, cells: impl Iterator<Item = String>) {
    println!("| {} | {} | {} |", size.files, size.dirs, cells.collect::<Vec<_>>().join(" | "));
}

fn print_step(pair: &[Size], cells: impl FnOnce(&Step) -> Vec<String>) {
    let [from, to] = pair else { return };
    println!("| {} | {} | {} |", from.files, to.files, cells(&Step { from, to }).join(" | "));
}

/// From one size to the next.
struct Step<'a> {
    from: &'a Size,
    to: &'a Size,
}

impl Step<'_> {
    fn grown(&self, column: &Column) -> f64 {
        self.to.median(column) - self.from.median(column)
    }

    fn files(&self) -> f64 {
        (self.to.files - self.from.files) as f64
    }

    fn dirs(&self) -> f64 {
        (self.to.dirs - self.from.dirs) as f64
    }

    fn per_file(&self, column: &Column) -> f64 {
        self.grown(column) / self.files()
    }

    /// The slope where both axes are logarithmic.
    fn exponent(&self, column: &Column) -> f64 {
        let files = self.to.files as f64 / self.from.files as f64;
        (self.to.median(column) / self.from.median(column)).ln() / files.ln()
    }
}
