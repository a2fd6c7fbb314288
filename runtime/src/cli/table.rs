//! Tables as Docker prints them: columns of at least ten characters, three spaces between.

/// Smallest column and gap of Docker's output.
const MIN: usize = 10;
const GAP: usize = 3;

/// Lays a table out. The last column is not padded.
pub fn layout(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let longest = rows.iter().filter_map(|row| row.get(column));
            longest.map(|cell| cell.chars().count() + GAP).max().unwrap_or(0).max(MIN)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        for (number, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if number + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = super::layout(&[row(["A", "LONGER HEADER", "Z"]), row(["äöü", "b", "c"])]);
        assert_eq!(text, "A         LONGER HEADER   Z\näöü       b               c\n");
    }
}
