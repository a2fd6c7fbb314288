//! `printf`: Go's verbs for the values that JSON has.

use serde_json::Value;

use super::{functions, print};

/// Widest field: what is asked for more is a mistake.
const MAX_WIDTH: usize = 4096;

/// One verb with its flags: `%-10s`.
#[derive(Debug, Default)]
struct Verb {
    minus: bool,
    plus: bool,
    zero: bool,
    sharp: bool,
    space: bool,
    width: usize,
    precision: Option<usize>,
}

/// Formats values. Mistakes show in the text, as in Go.
pub fn format(format: &str, values: &[&Value]) -> String {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '+' | '0' | '#' | ' ')) {
            match flag {
                '-' => verb.minus = true,
                '+' => verb.plus = true,
                '#' => verb.sharp = true,
                ' ' => verb.space = true,
                _ => verb.zero = true,
            }
        }
        let mut number = || -> Option<usize> {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits.parse().ok()
        };
        verb.width = number().unwrap_or(0).min(MAX_WIDTH);
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            verb.precision = Some(digits.parse().unwrap_or(0).min(MAX_WIDTH));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(letter) => match values.next() {
                None => out.push_str(&format!("%!{letter}(MISSING)")),
                Some(value) => out.push_str(&one(&verb, letter, value)),
            },
        }
    }
    let extra: Vec<String> = values
        .map(|value| format!("{}={}", functions::kind(value), print::display(value)))
        .collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn one(verb: &Verb, letter: char, value: &Value) -> String {
    let text = match (letter, value) {
        // Lists are formatted element by element.
        (letter, Value::Array(list)) if letter != 'v' => {
            let texts: Vec<String> = list.iter().map(|value| one(verb, letter, value)).collect();
            return format!("[{}]", texts.join(" "));
        }
        ('s', Value::String(text)) => cut(verb, text),
        ('v', Value::String(text)) if !verb.sharp => cut(verb, text),
        ('q', Value::String(text)) => go_quoted(&cut(verb, text)),
        ('v', Value::String(text)) => go_quoted(text),
        ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('v', Value::Number(_)) => signed(verb, print::display(value)),
        ('v', value) => print::display(value),
        ('t', Value::Bool(truth)) => truth.to_string(),
        (letter, Value::Number(number)) => {
            let integer = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
            match (letter, integer, number.as_f64()) {
                ('d', Some(integer), _) => signed(verb, integer.to_string()),
                ('x', Some(integer), _) => radix(integer, &format!("{:x}", integer.abs())),
                ('X', Some(integer), _) => radix(integer, &format!("{:X}", integer.abs())),
                ('o', Some(integer), _) => radix(integer, &format!("{:o}", integer.abs())),
                ('b', Some(integer), _) => radix(integer, &format!("{:b}", integer.abs())),
                ('c', Some(integer), _) => u32::try_from(integer)
                    .ok()
                    .and_then(char::from_u32)
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
                    .to_string(),
                ('f' | 'F', None, Some(float)) => {
                    signed(verb, format!("{float:.*}", verb.precision.unwrap_or(6)))
                }
                ('g', None, Some(float)) => signed(verb, print::float(float)),
                _ => return mistake(letter, value),
            }
        }
        (letter, value) => return mistake(letter, value),
    };
    let missing = verb.width.saturating_sub(text.chars().count());
    if verb.minus {
        format!("{text}{:missing$}", "")
    } else if verb.zero && value.is_number() {
        let (sign, digits) = match text.strip_prefix(['-', '+']) {
            Some(digits) => text.split_at(text.len() - digits.len()),
            None => ("", text.as_str()),
        };
        format!("{sign}{:0>missing$}{digits}", "")
    } else {
        format!("{:missing$}{text}", "")
    }
}

fn cut(verb: &Verb, text: &str) -> String {
    text.chars().take(verb.precision.unwrap_or(usize::MAX)).collect()
}

fn signed(verb: &Verb, text: String) -> String {
    match text.starts_with('-') {
        false if verb.plus => format!("+{text}"),
        false if verb.space => format!(" {text}"),
        _ => text,
    }
}

fn radix(number: i128, digits: &str) -> String {
    if number < 0 { format!("-{digits}") } else { digits.to_owned() }
}

fn mistake(letter: char, value: &Value) -> String {
    if value.is_null() {
        return format!("%!{letter}(<nil>)");
    }
    format!("%!{letter}({}={})", functions::kind(value), print::display(value))
}

/// A string in double quotes, as Go's `strconv.Quote` writes it.
fn go_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() && u32::from(c) < 0x80 => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
