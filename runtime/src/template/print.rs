//! Values as Go writes them.

use serde_json::Value;

/// A value as `{{.}}` prints it: Go's `%v`.
pub fn display(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let texts: Vec<String> = list.iter().map(inner).collect();
            format!("[{}]", texts.join(" "))
        }
        Value::Object(map) => {
            let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            let texts: Vec<String> =
                pairs.into_iter().map(|(key, value)| format!("{key}:{}", inner(value))).collect();
            format!("map[{}]", texts.join(" "))
        }
        Value::Bool(_) => value.to_string(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => self::float(float),
            _ => number.to_string(),
        },
    }
}

fn inner(value: &Value) -> String {
    if value.is_null() { "<nil>".to_owned() } else { display(value) }
}

/// Go's `%v` of a float: the shortest form, with an exponent for the very large and small.
pub fn float(number: f64) -> String {
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{number}")
}

/// A value as JSON on one line, in the order of its fields.
pub fn json(value: &Value) -> String {
    value.to_string()
}
