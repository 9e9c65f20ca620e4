// SPDX-License-Identifier: GPL-2.0
//! Bar charts, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A bar: the ratio of our device to vhost-net.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What is compared.
    pub label: String,
    /// The ratio.
    pub ratio: f64,
    /// Smallest and largest ratio, if there were several runs.
    pub range: Option<(f64, f64)>,
}

const WIDTH: u32 = 760;
const ROW: u32 = 22;
const FRAME: u32 = 96;
const OURS: RGBColor = RGBColor(0xb7, 0x41, 0x0e);
const LINE: RGBColor = RGBColor(0x44, 0x44, 0x44);

/// Draws `bars`, the first on top, with a line at 1.
pub fn ratios(path: &Path, title: &str, bars: &[Bar]) -> Result<()> {
    let rows = i32::try_from(bars.len())?;
    let height = FRAME + ROW * u32::try_from(bars.len())?;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    draw(&area, title, bars, rows).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    bars: &[Bar],
    rows: i32,
) -> Drawn {
    area.fill(&WHITE)?;
    let highest = bars
        .iter()
        .map(|bar| bar.range.map_or(bar.ratio, |range| range.1.max(bar.ratio)))
        .fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(190)
        .build_cartesian_2d(0.0..highest * 1.12, (0..rows).into_segmented())?;
    let label = |value: &SegmentValue<i32>| match value {
        SegmentValue::CenterOf(at) => position(*at, rows)
            .and_then(|at| bars.get(at))
            .map(|bar| bar.label.clone())
            .unwrap_or_default(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(bars.len())
        .y_label_formatter(&label)
        .x_desc("vhost-net is 1")
        .label_style(("sans-serif", 12))
        .draw()?;
    for (at, bar) in bars.iter().enumerate() {
        let row = rows - 1 - i32::try_from(at)?;
        let low = (0.0, SegmentValue::Exact(row));
        let high = (bar.ratio, SegmentValue::Exact(row + 1));
        let mut shape = Rectangle::new([low, high], OURS.filled());
        shape.set_margin(3, 3, 0, 0);
        chart.draw_series([shape])?;
        let middle = SegmentValue::CenterOf(row);
        let mut end = bar.ratio;
        if let Some((from, to)) = bar.range {
            let ends = [(from, middle.clone()), (to, middle.clone())];
            chart.draw_series([PathElement::new(ends, BLACK.stroke_width(2))])?;
            end = end.max(to);
        }
        let text = format!("{:.2}", bar.ratio);
        let style = ("sans-serif", 12)
            .into_font()
            .color(&LINE)
            .pos(Pos::new(HPos::Left, VPos::Center));
        chart.draw_series([Text::new(text, (end + highest * 0.01, middle), style)])?;
    }
    let ends = [
        (1.0, SegmentValue::Exact(0)),
        (1.0, SegmentValue::Exact(rows)),
    ];
    chart.draw_series([PathElement::new(ends, LINE.stroke_width(2))])?;
    area.present()?;
    Ok(())
}

/// The bar in row `at`, counted from below.
fn position(at: i32, rows: i32) -> Option<usize> {
    usize::try_from(rows.checked_sub(1)?.checked_sub(at)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_all_labels() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chart.svg");
        let bar = |label: &str, ratio, range| Bar {
            label: label.to_owned(),
            ratio,
            range,
        };
        let bars = [
            bar("first-case", 0.5, None),
            bar("second-case", 1.3, Some((1.1, 1.4))),
        ];
        ratios(&path, "the title", &bars).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["first-case", "second-case", "the title", "0.50", "1.30"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        assert!(svg.find("first-case").unwrap() != svg.find("second-case").unwrap());
    }
}
