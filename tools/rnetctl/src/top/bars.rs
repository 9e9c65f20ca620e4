// SPDX-License-Identifier: GPL-2.0
//! Values as bars of one line.

/// The eight heights of a bar.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A bar for each value, the highest for the greatest of them; a space for nothing.
pub fn bars(values: &[f64]) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    let bar = |value: f64| {
        if value <= 0.0 || most <= 0.0 {
            return ' ';
        }
        // CAST: from 0 to 7, since no value is greater than `most`.
        let height = (value / most * 8.0).ceil() as usize;
        BARS.get(height.saturating_sub(1)).copied().unwrap_or('█')
    };
    values.iter().map(|value| bar(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::bars;

    #[test]
    fn bars_are_as_high_as_their_part_of_the_highest() {
        assert_eq!(bars(&[0.0, 1.0, 4.0, 8.0]), " ▁▄█");
        assert_eq!(bars(&[0.0, 0.0]), "  ");
        assert_eq!(bars(&[0.001, 1e12]), "▁█");
        assert_eq!(bars(&[]), "");
    }
}
