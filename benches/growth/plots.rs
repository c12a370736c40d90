//! The plots, as SVG.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::Size;
use crate::tables::{Column, MEMORY, TIMES};

type Drawn = Result<(), Box<dyn Error>>;

const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 87, 160),
    RGBColor(206, 92, 0),
    RGBColor(40, 130, 60),
    RGBColor(160, 40, 120),
    RGBColor(90, 90, 90),
    RGBColor(150, 120, 0),
];

/// In pixels, of an image without a scale.
const PLOT_WIDTH: u32 = 640;
const LEGEND_WIDTH: u32 = 200;

/// What a plot shows: columns in a unit, which is so much of what they are measured in.
struct Plot<'a> {
    title: &'a str,
    unit: &'a str,
    scale: f64,
    columns: &'a [Column],
    sizes: &'a [Size],
}

pub fn draw(sizes: &[Size], folder: &Path) -> Drawn {
    let time = Plot {
        title: "Time against number of files",
        unit: "seconds",
        scale: 1.0,
        columns: &TIMES,
        sizes,
    };
    let Range { start, end } = time.values();
    let seconds =
        (start / 1.5..end * 1.5).log_scale().with_key_points(steps(start / 1.5..end * 1.5));
    time.draw(&folder.join("growth-time.svg"), seconds)?;
    let memory = Plot {
        title: "Resident memory against number of files",
        unit: "MB",
        scale: 1e6,
        columns: &MEMORY,
        sizes,
    };
    memory.draw(&folder.join("growth-memory.svg"), 0.0..memory.values().end * 1.15)
}

impl Plot<'_> {
    fn points(&self, column: &Column) -> Vec<(f64, f64)> {
        self.sizes
            .iter()
            .map(|size| (size.files as f64, size.median(column) / self.scale))
            .collect()
    }

    /// From the least value to the greatest.
    fn values(&self) -> Range<f64> {
        let values =
            self.columns.iter().flat_map(|column| self.points(column)).map(|(_, value)| value);
        values.fold(f64::MAX..0.0, |range, value| range.start.min(value)..range.end.max(value))
    }

    fn draw<Y>(&self, path: &Path, values: Y) -> Drawn
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let area = SVGBackend::new(path, (PLOT_WIDTH + LEGEND_WIDTH, 480)).into_drawing_area();
        area.fill(&WHITE)?;
        let (plot, legend) = area.split_horizontally(PLOT_WIDTH);
        let known: Vec<f64> = self.sizes.iter().map(|size| size.files as f64).collect();
        let files =
            (known[0] / 1.3..known[known.len() - 1] * 1.3).log_scale().with_key_points(known);
        let mut chart = ChartBuilder::on(&plot)
            .caption(self.title, ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(56)
            .y_label_area_size(72)
            .build_cartesian_2d(files, values)?;
        chart
            .configure_mesh()
            .x_desc("files")
            .y_desc(self.unit)
            .max_light_lines(1)
            .label_style(("sans-serif", 16))
            .axis_desc_style(("sans-serif", 18))
            .x_label_formatter(&|files| short(*files))
            .y_label_formatter(&|value| plain(*value))
            .draw()?;
        // Rings of several sizes, so that points in one place are seen as several.
        for ((column, colour), radius) in self.columns.iter().zip(COLOURS).zip(3..) {
            let line = LineSeries::new(self.points(column), colour.stroke_width(2));
            chart.draw_series(line.point_size(radius))?;
        }
        self.draw_legend(&legend)?;
        area.present()?;
        Ok(())
    }

    /// Beside the plot, where it hides nothing.
    fn draw_legend(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn {
        for ((column, colour), line) in self.columns.iter().zip(COLOURS).zip(0..) {
            let (y, radius) = (60 + 26 * line, 3 + line);
            area.draw(&PathElement::new([(4, y), (32, y)], colour.stroke_width(2)))?;
            area.draw(&Circle::new((18, y), radius, colour.stroke_width(2)))?;
            area.draw(&Text::new(column.name, (40, y - 6), ("sans-serif", 16)))?;
        }
        Ok(())
    }
}

/// 1, 2 and 5 of each power of ten.
fn steps(range: Range<f64>) -> Vec<f64> {
    let powers = (-4..5).map(|power| 10_f64.powi(power));
    powers
        .flat_map(|power| [power, 2.0 * power, 5.0 * power])
        .filter(|step| range.contains(step))
        .collect()
}

/// As in 10k and 1M.
fn short(files: f64) -> String {
    match files {
        1e6.. => format!("{}M", files / 1e6),
        1e3.. => format!("{}k", files / 1e3),
        _ => files.to_string(),
    }
}

/// Without the noise of binary fractions.
fn plain(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
