//! `--format` of the commands that list things: Docker's tables, templates and JSON lines.
//!
//! A row is an object whose fields are what a template may name. A table has columns of at least
//! ten characters, three spaces between.

use serde_json::{Map, Value};

use super::Failure;
use crate::template::Template;

/// Smallest column and gap of Docker's output.
const MIN: usize = 10;
const GAP: usize = 3;

/// How a list is shown.
#[derive(Debug)]
pub struct Format {
    template: Template,
    /// Whether titles come first and columns are aligned.
    table: bool,
}

impl Format {
    /// Reads `--format`: a template, `table TEMPLATE`, `table`, `json`, or nothing at all.
    /// `default` is the template of the usual table, its columns separated by tabs.
    pub fn parse(format: Option<&str>, default: &str) -> Result<Format, Failure> {
        let format = format.unwrap_or_default().trim();
        let (table, text) = match format {
            "" | "table" => (true, default),
            "json" => (false, "{{json .}}"),
            _ => match format.strip_prefix("table") {
                Some(rest) if rest.starts_with([' ', '\t', '{']) => (true, rest.trim()),
                _ => (false, format),
            },
        };
        // In the shell's quotes `\t` stays two characters; Docker means a tab.
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        Ok(Format { template: Template::parse(&text)?, table })
    }

    /// Whether a row's field is shown: what is costly to find out can be left out otherwise.
    pub fn shows(&self, field: &str) -> bool {
        self.template.fields().iter().any(|shown| shown == field)
    }

    /// The rows as text. `titles` are the titles of the fields, for a table.
    pub fn render(&self, titles: &[(&str, &str)], rows: &[Value]) -> Result<String, Failure> {
        let mut lines = Vec::with_capacity(rows.len() + 1);
        if self.table {
            let titles: Map<String, Value> =
                titles.iter().map(|(name, title)| ((*name).to_owned(), (*title).into())).collect();
            lines.push(self.template.render_titles(&Value::Object(titles))?);
        }
        for row in rows {
            let mut row = row.clone();
            if let Value::Object(fields) = &mut row {
                // `{{json .}}` lists the fields in order of their names.
                fields.sort_keys();
            }
            lines.push(self.template.render(&row)?);
        }
        if self.table {
            // A line may itself hold several, as when a template loops over something.
            let cells = lines.iter().flat_map(|text| text.split('\n'));
            let cells: Vec<Vec<String>> =
                cells.map(|line| line.split('\t').map(str::to_owned).collect()).collect();
            return Ok(layout(&cells));
        }
        Ok(lines.into_iter().map(|line| line + "\n").collect())
    }
}

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
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = super::layout(&[row(["A", "LONGER HEADER", "Z"]), row(["äöü", "b", "c"])]);
        assert_eq!(text, "A         LONGER HEADER   Z\näöü       b               c\n");
    }

    #[test]
    fn formats_as_docker_takes_them() {
        let titles = [("ID", "CONTAINER ID"), ("Names", "NAMES"), ("Labels", "LABELS")];
        let rows = [
            serde_json::json!({ "Names": "web", "ID": "0123456789ab", "Labels": "a.my_key=1" }),
            serde_json::json!({ "Names": "db", "ID": "ba9876543210", "Labels": "" }),
        ];
        let show = |format: Option<&str>| {
            let format = Format::parse(format, "{{.ID}}\t{{.Names}}").map_err(|f| f.message)?;
            format.render(&titles, &rows).map_err(|failure| failure.message)
        };
        let table = "CONTAINER ID   NAMES\n0123456789ab   web\nba9876543210   db\n";
        assert_eq!(show(None).as_deref(), Ok(table));
        assert_eq!(show(Some("table")).as_deref(), Ok(table));
        assert_eq!(
            show(Some("table {{upper .Names}}\\t{{.Label \"a.my_key\"}}")).as_deref(),
            Ok("NAMES     my key\nWEB       1\nDB        \n")
        );
        assert_eq!(show(Some("{{.Names}}\\n")).as_deref(), Ok("web\n\ndb\n\n"));
        assert_eq!(
            show(Some("json")).unwrap().lines().next(),
            Some(r#"{"ID":"0123456789ab","Labels":"a.my_key=1","Names":"web"}"#)
        );
        let wrong = show(Some("{{.Nmes}}")).unwrap_err();
        assert!(wrong.contains("map has no entry for key \"Nmes\""), "{wrong}");
        assert!(show(Some("{{.Names")).is_err());
    }
}
