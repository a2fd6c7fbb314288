//! The functions that a template may call: Go's, and those that Docker adds.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use super::exec::Given;
use super::{print, printf};

/// Every function by its name, with the least and the most arguments it takes.
const KNOWN: [(&str, usize, usize); 28] = [
    ("and", 1, usize::MAX),
    ("or", 1, usize::MAX),
    ("not", 1, 1),
    ("eq", 1, usize::MAX),
    ("ne", 2, 2),
    ("lt", 2, 2),
    ("le", 2, 2),
    ("gt", 2, 2),
    ("ge", 2, 2),
    ("len", 1, 1),
    ("index", 1, usize::MAX),
    ("slice", 1, 4),
    ("print", 0, usize::MAX),
    ("println", 0, usize::MAX),
    ("printf", 1, usize::MAX),
    ("html", 0, usize::MAX),
    ("js", 0, usize::MAX),
    ("urlquery", 0, usize::MAX),
    ("json", 1, 1),
    ("join", 2, 2),
    ("split", 2, 2),
    ("upper", 1, 1),
    ("lower", 1, 1),
    ("title", 1, 1),
    ("pad", 3, 3),
    ("truncate", 2, 2),
    ("trim", 1, 1),
    ("replace", 3, 3),
];
/// Widest padding: what is asked for more is a mistake.
const MAX_PAD: i64 = 4096;

/// Whether there is a function of that name.
pub fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(known, ..)| *known == name)
}

/// Whether a function only changes how a value looks.
pub fn changes_form(name: &str) -> bool {
    matches!(name, "json" | "join" | "split" | "upper" | "lower" | "title" | "pad" | "truncate")
}

/// Go's notion of truth: not zero, not empty.
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// What Go calls the type of a value.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Calls a function.
pub fn call<'a>(name: &str, mut arguments: Vec<Given<'a>>) -> Result<Given<'a>, String> {
    let count = arguments.len();
    let Some((_, least, most)) = KNOWN.iter().find(|(known, ..)| *known == name) else {
        return Err(format!("{name:?} is not a defined function"));
    };
    if count < *least || count > *most {
        let at_least = if *most == usize::MAX { "at least " } else { "" };
        return Err(format!("wrong number of args for {name}: want {at_least}{least} got {count}"));
    }
    match name {
        // The lazy part is done where the arguments are evaluated.
        "and" | "or" => {
            let decides = arguments.iter().position(|value| is_true(value) == (name == "or"));
            let at = decides.unwrap_or(count.saturating_sub(1));
            return Ok(arguments.swap_remove(at));
        }
        "index" => return walk(arguments).map_err(|why| format!("error calling index: {why}")),
        _ => {}
    }
    let values: Vec<&Value> = arguments.iter().map(|argument| &**argument).collect();
    plain(name, &values).map(Cow::Owned).map_err(|why| match why {
        Refusal::Type(why) => why,
        Refusal::Call(why) => format!("error calling {name}: {why}"),
    })
}

/// Why a function does not answer: its arguments are of wrong types, or it failed.
enum Refusal {
    Type(String),
    Call(String),
}

fn expected(what: &str, value: &Value) -> Refusal {
    Refusal::Type(format!("wrong type for value; expected {what}; got {}", kind(value)))
}

fn text(value: &Value) -> Result<&str, Refusal> {
    value.as_str().ok_or_else(|| expected("string", value))
}

fn integer(value: &Value) -> Result<i64, Refusal> {
    value.as_i64().ok_or_else(|| expected("int", value))
}

fn plain(name: &str, values: &[&Value]) -> Result<Value, Refusal> {
    Ok(match (name, values) {
        ("not", [value]) => Value::Bool(!is_true(value)),
        ("eq", [first, rest @ ..]) => {
            if rest.is_empty() {
                return Err(Refusal::Call("missing argument for comparison".to_owned()));
            }
            let mut found = false;
            for other in rest {
                found = found || equal(first, other)?;
            }
            Value::Bool(found)
        }
        ("ne", [a, b]) => Value::Bool(!equal(a, b)?),
        ("lt", [a, b]) => Value::Bool(order(a, b)? == Ordering::Less),
        ("le", [a, b]) => Value::Bool(order(a, b)? != Ordering::Greater),
        ("gt", [a, b]) => Value::Bool(order(a, b)? == Ordering::Greater),
        ("ge", [a, b]) => Value::Bool(order(a, b)? != Ordering::Less),
        ("len", [value]) => Value::from(match value {
            Value::String(text) => text.len(),
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            Value::Null => 0,
            other => return Err(Refusal::Call(format!("len of type {}", kind(other)))),
        }),
        ("slice", [value, bounds @ ..]) => slice(value, bounds)?,
        ("print", values) => Value::String(print_all(values, false)),
        ("println", values) => Value::String(print_all(values, true) + "\n"),
        ("printf", [format, values @ ..]) => Value::String(printf::format(text(format)?, values)),
        ("html", values) => Value::String(html(&print_all(values, false))),
        ("js", values) => Value::String(js(&print_all(values, false))),
        ("urlquery", values) => Value::String(url_query(&print_all(values, false))),
        ("json", [value]) => Value::String(print::json(value)),
        ("join", [list, separator]) => Value::String(join(list, text(separator)?)?),
        ("split", [value, separator]) => split(text(value)?, text(separator)?),
        ("upper", [value]) => Value::String(text(value)?.to_uppercase()),
        ("lower", [value]) => Value::String(text(value)?.to_lowercase()),
        ("title", [value]) => Value::String(title(text(value)?)),
        ("trim", [value]) => Value::String(text(value)?.trim().to_owned()),
        ("replace", [value, old, new]) => {
            Value::String(text(value)?.replace(text(old)?, text(new)?))
        }
        ("pad", [value, before, after]) => {
            let width = |value: &Value| -> Result<usize, Refusal> {
                match usize::try_from(integer(value)?) {
                    Ok(width) if width <= MAX_PAD as usize => Ok(width),
                    _ => Err(Refusal::Call(format!("the padding is not from 0 to {MAX_PAD}"))),
                }
            };
            let text = text(value)?;
            let (before, after) = (width(before)?, width(after)?);
            Value::String(if text.is_empty() {
                String::new()
            } else {
                format!("{:before$}{text}{:after$}", "", "")
            })
        }
        ("truncate", [value, length]) => {
            let length = usize::try_from(integer(length)?).unwrap_or(0);
            Value::String(text(value)?.chars().take(length).collect())
        }
        _ => return Err(Refusal::Call("wrong arguments".to_owned())),
    })
}

/// Go's Print puts spaces between operands when neither is a string; Println always.
fn print_all(values: &[&Value], always: bool) -> String {
    let mut out = String::new();
    let mut last_was_text = true;
    for (number, value) in values.iter().enumerate() {
        let is_text = value.is_string();
        if number > 0 && (always || (!is_text && !last_was_text)) {
            out.push(' ');
        }
        out.push_str(&print::display(value));
        last_was_text = is_text;
    }
    out
}

fn equal(a: &Value, b: &Value) -> Result<bool, Refusal> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => {
            Ok(a.as_f64() == b.as_f64() && a.as_i64() == b.as_i64() && a.as_u64() == b.as_u64())
        }
        (Value::String(a), Value::String(b)) => Ok(a == b),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Null, b) => Ok(b.is_null()),
        (_, Value::Null) => Ok(false),
        (Value::Array(_) | Value::Object(_), other)
        | (other, Value::Array(_) | Value::Object(_)) => Err(Refusal::Call(format!(
            "non-comparable type {}: {}",
            print::display(other),
            kind(other)
        ))),
        _ => Err(Refusal::Call("incompatible types for comparison".to_owned())),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, Refusal> {
    let ordering = match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => {
            match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => a.as_f64().partial_cmp(&b.as_f64()),
            }
        }
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(_) | Value::Array(_) | Value::Object(_), _) => {
            return Err(Refusal::Call("invalid type for comparison".to_owned()));
        }
        _ => None,
    };
    ordering.ok_or_else(|| Refusal::Call("incompatible types for comparison".to_owned()))
}

fn walk<'a>(arguments: Vec<Given<'a>>) -> Result<Given<'a>, String> {
    let mut arguments = arguments.into_iter();
    let mut value = arguments.next().unwrap_or(Cow::Owned(Value::Null));
    for index in arguments {
        value = match value {
            Cow::Borrowed(value) => Cow::Borrowed(step(value, &index)?),
            Cow::Owned(value) => Cow::Owned(step(&value, &index)?.clone()),
        };
    }
    Ok(value)
}

fn step<'a>(value: &'a Value, index: &Value) -> Result<&'a Value, String> {
    const NOTHING: &Value = &Value::Null;
    match (value, index) {
        (Value::Array(list), Value::Number(number)) if !number.is_f64() => {
            let at = number.as_u64().and_then(|at| usize::try_from(at).ok());
            at.and_then(|at| list.get(at)).ok_or_else(|| format!("index out of range: {number}"))
        }
        // A missing key is Go's zero value.
        (Value::Object(map), Value::String(key)) => Ok(map.get(key).unwrap_or(NOTHING)),
        (Value::Object(_), other) => {
            Err(format!("value has type {}; should be string", kind(other)))
        }
        (Value::Array(_), other) => {
            Err(format!("cannot index slice/array with type {}", kind(other)))
        }
        (Value::Null, _) => Err("index of untyped nil".to_owned()),
        (other, _) => Err(format!("can't index item of type {}", kind(other))),
    }
}

fn slice(value: &Value, bounds: &[&Value]) -> Result<Value, Refusal> {
    let mut numbers = Vec::new();
    for bound in bounds {
        numbers.push(usize::try_from(integer(bound)?).map_err(|_| {
            Refusal::Call(format!("index out of range: {}", print::display(bound)))
        })?);
    }
    let length = match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.len(),
        Value::Null => return Err(Refusal::Call("slice of untyped nil".to_owned())),
        other => return Err(Refusal::Call(format!("can't slice item of type {}", kind(other)))),
    };
    let start = numbers.first().copied().unwrap_or(0);
    let end = numbers.get(1).copied().unwrap_or(length);
    let wrong = || Refusal::Call(format!("invalid slice index: {start} > {end}"));
    match value {
        Value::String(text) => text.get(start..end).map(Value::from).ok_or_else(wrong),
        Value::Array(list) => {
            list.get(start..end).map(|part| Value::Array(part.to_vec())).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

fn join(list: &Value, separator: &str) -> Result<String, Refusal> {
    let list = match list {
        Value::Array(list) => list,
        Value::Null => return Ok(String::new()),
        other => return Err(expected("[]string", other)),
    };
    let mut texts = Vec::new();
    for value in list {
        texts.push(text(value)?);
    }
    Ok(texts.join(separator))
}

fn split(text: &str, separator: &str) -> Value {
    if separator.is_empty() {
        return text.chars().map(|c| Value::from(c.to_string())).collect();
    }
    text.split(separator).map(Value::from).collect()
}

/// The first letter of every word in upper case.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || c == '_' || c == '\'';
    }
    out
}

fn html(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&#34;".to_owned(),
            '\'' => "&#39;".to_owned(),
            '\0' => "\u{fffd}".to_owned(),
            c => c.to_string(),
        })
        .collect()
}

fn js(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\\' | '\'' | '"' => format!("\\{c}"),
            '<' | '>' | '&' | '=' => format!("\\u{:04X}", u32::from(c)),
            c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
            c => c.to_string(),
        })
        .collect()
}

fn url_query(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
