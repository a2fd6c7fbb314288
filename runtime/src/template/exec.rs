//! Applying a template to a value.
//!
//! What belongs to the caller's value is borrowed, what functions make is owned.

use std::borrow::Cow;

use serde_json::Value;

use super::ast::{Command, Node, Operand, OperandKind, Pipeline, Span};
use super::{TemplateError, functions, line, print};

/// A value on its way.
pub type Given<'a> = Cow<'a, Value>;

/// Fields that are maps in Docker's objects: a missing key prints as `<no value>`.
const MAPS: [&str; 14] = [
    "Annotations",
    "Data",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "LogConfig",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];
/// Fields that are lists in Docker's objects: null prints as `[]`.
const LISTS: [&str; 24] = [
    "Aliases",
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Layers",
    "Links",
    "Mounts",
    "OnBuild",
    "RepoDigests",
    "RepoTags",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
];

/// Why the nodes after this one are skipped.
enum Flow {
    Next,
    Break,
    Continue,
}

/// Where something went wrong.
pub struct Wrong {
    span: Span,
    why: String,
}

/// Applies nodes to a value.
pub fn render(
    source: &str,
    nodes: &[Node],
    value: &Value,
    titles: bool,
) -> Result<String, TemplateError> {
    let mut state = State {
        source,
        titles,
        out: String::new(),
        variables: vec![("$".to_owned(), Cow::Borrowed(value))],
    };
    match state.list(nodes, &Cow::Borrowed(value)) {
        Ok(_) => Ok(state.out),
        Err(Wrong { span, why }) => {
            let before = source.get(..span.start).unwrap_or_default();
            let column = before.rfind('\n').map_or(before.len(), |at| before.len() - at - 1);
            let mut at = source.get(span.start..span.end).unwrap_or_default().to_owned();
            if let Some((cut, _)) = at.char_indices().nth(20) {
                at.truncate(cut);
                at.push_str("...");
            }
            Err(TemplateError::Execute { line: line(source, span.start), column, at, why })
        }
    }
}

/// Names of the fields of the dot that nodes show.
pub fn fields(nodes: &[Node], found: &mut Vec<String>) {
    for node in nodes {
        match node {
            Node::Text(_) | Node::Break | Node::Continue => {}
            Node::Action(pipeline) => fields_of(pipeline, found),
            Node::If { condition, then, otherwise, .. } => {
                fields_of(condition, found);
                fields(then, found);
                fields(otherwise, found);
            }
            Node::Range { over, otherwise, .. } => {
                fields_of(over, found);
                fields(otherwise, found);
            }
        }
    }
}

fn fields_of(pipeline: &Pipeline, found: &mut Vec<String>) {
    for operand in pipeline.commands.iter().flat_map(|command| &command.operands) {
        match &operand.kind {
            OperandKind::Dot => found.extend(operand.fields.first().cloned()),
            OperandKind::Variable(name) if name == "$" => {
                found.extend(operand.fields.first().cloned());
            }
            OperandKind::Brackets(inner) => fields_of(inner, found),
            _ => {}
        }
    }
}

struct State<'a> {
    source: &'a str,
    /// Whether the value holds the titles of columns.
    titles: bool,
    out: String,
    variables: Vec<(String, Given<'a>)>,
}

impl<'a> State<'a> {
    fn list(&mut self, nodes: &[Node], dot: &Given<'a>) -> Result<Flow, Wrong> {
        let scope = self.variables.len();
        let mut flow = Flow::Next;
        for node in nodes {
            flow = self.node(node, dot)?;
            if !matches!(flow, Flow::Next) {
                break;
            }
        }
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Given<'a>) -> Result<Flow, Wrong> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    let text = match (&*value, last_field(pipeline)) {
                        (Value::Null, Some(name)) if LISTS.contains(&name) => "[]".to_owned(),
                        (Value::Null, Some(name)) if MAPS.contains(&name) => "map[]".to_owned(),
                        (value, _) => print::display(value),
                    };
                    self.out.push_str(&text);
                }
            }
            Node::If { condition, with, then, otherwise } => {
                let scope = self.variables.len();
                let value = self.pipeline(condition, dot)?;
                let flow = if functions::is_true(&value) {
                    self.list(then, if *with { &value } else { dot })?
                } else {
                    self.list(otherwise, dot)?
                };
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::Range { over, body, otherwise } => {
                let scope = self.variables.len();
                let flow = self.range(over, body, otherwise, dot)?;
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Given<'a>,
    ) -> Result<Flow, Wrong> {
        let value = self.commands(over, dot)?;
        let elements: Vec<(Value, Given<'a>)> = match value {
            Cow::Borrowed(value) => match elements(value) {
                Some(pairs) => {
                    pairs.into_iter().map(|(key, value)| (key, Cow::Borrowed(value))).collect()
                }
                None => return Err(self.no_range(over, value)),
            },
            Cow::Owned(value) => match elements(&value) {
                Some(pairs) => {
                    pairs.into_iter().map(|(key, value)| (key, Cow::Owned(value.clone()))).collect()
                }
                None => return Err(self.no_range(over, &value)),
            },
        };
        if elements.is_empty() {
            return self.list(otherwise, dot);
        }
        for (key, element) in elements {
            let scope = self.variables.len();
            match over.variables.as_slice() {
                [one] => self.set(one, element.clone(), over.declares),
                [index, one] => {
                    self.set(index, Cow::Owned(key), over.declares);
                    self.set(one, element.clone(), over.declares);
                }
                _ => {}
            }
            let flow = self.list(body, &element)?;
            self.variables.truncate(scope);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn no_range(&self, over: &Pipeline, value: &Value) -> Wrong {
        let span = over.commands.first().map_or(Span { start: 0, end: 0 }, |first| first.span);
        Wrong { span, why: format!("range can't iterate over {}", print::display(value)) }
    }

    fn set(&mut self, name: &str, value: Given<'a>, declares: bool) {
        if !declares
            && let Some((_, old)) = self.variables.iter_mut().rev().find(|(known, _)| known == name)
        {
            *old = value;
            return;
        }
        self.variables.push((name.to_owned(), value));
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Given<'a>) -> Result<Given<'a>, Wrong> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.declares);
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Given<'a>) -> Result<Given<'a>, Wrong> {
        let mut piped: Option<Given<'a>> = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, dot, piped)?);
        }
        Ok(piped.unwrap_or(Cow::Owned(Value::Null)))
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Given<'a>,
        piped: Option<Given<'a>>,
    ) -> Result<Given<'a>, Wrong> {
        let Some((first, rest)) = command.operands.split_first() else {
            return Ok(Cow::Owned(Value::Null));
        };
        if let OperandKind::Function(name) = &first.kind {
            return self.call(name, command, rest, dot, piped);
        }
        if rest.is_empty() && piped.is_none() {
            return self.operand(first, dot);
        }
        // Docker's lists have one method: `.Label "key"`.
        if let Some(("Label", owner)) =
            first.fields.split_last().map(|(last, owner)| (last.as_str(), owner))
        {
            let mut arguments = Vec::new();
            for operand in rest {
                arguments.push(self.operand(operand, dot)?);
            }
            arguments.extend(piped);
            if self.titles {
                return Ok(Cow::Owned(label_title(&arguments)));
            }
            let bare = Operand { fields: owner.to_vec(), ..first.clone() };
            let owner = self.operand(&bare, dot)?;
            return label(&owner, &arguments)
                .map(Cow::Owned)
                .map_err(|why| Wrong { span: command.span, why });
        }
        let shown = self.source.get(first.span.start..first.span.end).unwrap_or_default();
        let why = format!("can't give argument to non-function {shown}");
        Err(Wrong { span: first.span, why })
    }

    fn call(
        &mut self,
        name: &str,
        command: &Command,
        operands: &[Operand],
        dot: &Given<'a>,
        piped: Option<Given<'a>>,
    ) -> Result<Given<'a>, Wrong> {
        let mut arguments: Vec<Given<'a>> = Vec::new();
        let lazy = matches!(name, "and" | "or");
        for operand in operands {
            let value = self.operand(operand, dot)?;
            // These two stop at the first argument that decides.
            let decided = lazy && functions::is_true(&value) == (name == "or");
            arguments.push(value);
            if decided {
                return arguments.pop().ok_or(Wrong { span: command.span, why: String::new() });
            }
        }
        arguments.extend(piped);
        if self.titles && functions::changes_form(name) && !arguments.is_empty() {
            // `join` and its like have the value first, also behind a pipe.
            return Ok(arguments.swap_remove(0));
        }
        functions::call(name, arguments).map_err(|why| Wrong { span: command.span, why })
    }

    fn operand(&mut self, operand: &Operand, dot: &Given<'a>) -> Result<Given<'a>, Wrong> {
        let mut value = match &operand.kind {
            OperandKind::Dot => dot.clone(),
            OperandKind::Literal(value) => Cow::Owned(value.clone()),
            OperandKind::Brackets(inner) => {
                let scope = self.variables.len();
                let value = self.pipeline(inner, dot)?;
                self.variables.truncate(scope);
                value
            }
            OperandKind::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                known.map_or(Cow::Owned(Value::Null), |(_, value)| value.clone())
            }
            OperandKind::Function(name) => {
                return functions::call(name, Vec::new())
                    .map_err(|why| Wrong { span: operand.span, why });
            }
        };
        let mut owner: Option<&str> = None;
        for name in &operand.fields {
            value = field(value, name, owner).map_err(|why| Wrong { span: operand.span, why })?;
            owner = Some(name);
        }
        Ok(value)
    }
}

/// The field that a pipeline consists of, if it is nothing else.
fn last_field(pipeline: &Pipeline) -> Option<&str> {
    match pipeline.commands.as_slice() {
        [Command { operands, .. }] => match operands.as_slice() {
            [operand] => operand.fields.last().map(String::as_str),
            _ => None,
        },
        _ => None,
    }
}

/// A field of `value`, which is itself the field `owner` of something.
fn field<'a>(value: Given<'a>, name: &str, owner: Option<&str>) -> Result<Given<'a>, String> {
    let found = match &value {
        Cow::Borrowed(Value::Object(map)) => {
            map.get(name).or_else(|| map.get(other_spelling(name)?)).map(Cow::Borrowed)
        }
        Cow::Owned(Value::Object(map)) => {
            let found = map.get(name).or_else(|| map.get(other_spelling(name)?));
            found.map(|found| Cow::Owned(found.clone()))
        }
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    let in_map = owner.is_some_and(|owner| MAPS.contains(&owner));
    match &*value {
        Value::Object(_) | Value::Null if in_map => Ok(Cow::Owned(Value::Null)),
        Value::Object(_) => Err(format!("map has no entry for key {name:?}")),
        Value::Null => Err(format!("nil pointer evaluating interface {{}}.{name}")),
        other => Err(format!("can't evaluate field {name} in type {}", functions::kind(other))),
    }
}

/// Docker's objects have `ID` in Go and `Id` in JSON; both work there.
fn other_spelling(name: &str) -> Option<&'static str> {
    match name {
        "ID" => Some("Id"),
        "Id" => Some("ID"),
        _ => None,
    }
}

/// The value of a label of one row of a list, whose `Labels` are `a=b,c=d`.
fn label(owner: &Value, arguments: &[Given<'_>]) -> Result<Value, String> {
    let [name] = arguments else {
        return Err(format!("wrong number of args for Label: want 1 got {}", arguments.len()));
    };
    let Value::String(name) = &**name else {
        return Err(format!(
            "wrong type for value; expected string; got {}",
            functions::kind(name)
        ));
    };
    let text = match owner.get("Labels") {
        Some(Value::Object(labels)) => labels.get(name).and_then(Value::as_str),
        Some(Value::String(labels)) => {
            labels.split(',').find_map(|label| label.strip_prefix(name.as_str())?.strip_prefix('='))
        }
        _ => return Err("map has no entry for key \"Label\"".to_owned()),
    };
    Ok(Value::from(text.unwrap_or_default()))
}

/// The title of a label's column: the last part of its name.
fn label_title(arguments: &[Given<'_>]) -> Value {
    let name = arguments.first().and_then(|name| name.as_str()).unwrap_or_default();
    let last = name.rsplit('.').next().unwrap_or(name);
    Value::from(last.replace(['-', '_'], " "))
}

/// What a range goes through, with index or key.
fn elements(value: &Value) -> Option<Vec<(Value, &Value)>> {
    match value {
        Value::Array(list) => Some(
            list.iter().enumerate().map(|(index, value)| (Value::from(index), value)).collect(),
        ),
        Value::Object(map) => {
            let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            Some(pairs.into_iter().map(|(key, value)| (Value::from(key.as_str()), value)).collect())
        }
        Value::Null => Some(Vec::new()),
        _ => None,
    }
}
