//! From words to a tree.

use serde_json::Value;

use super::ast::{Command, Node, Operand, OperandKind, Pipeline, Span};
use super::functions;
use super::lex::{self, Piece, Token, Word, Wrong};

/// Brackets and blocks within each other; a bound for the stack.
const MAX_DEPTH: usize = 100;

/// How a list of nodes ended.
enum End {
    Source,
    Closed,
    /// `else`, with the words behind it.
    Else(Words, usize),
}

/// Reads a template.
pub fn parse(source: &str) -> Result<Vec<Node>, Wrong> {
    let mut parser = Parser {
        pieces: lex::pieces(source)?.into_iter(),
        length: source.len(),
        variables: vec!["$".to_owned()],
        ranges: 0,
        depth: 0,
    };
    let (nodes, end) = parser.list()?;
    match end {
        End::Source => Ok(nodes),
        End::Closed => Err(Wrong::new(source.len(), "unexpected {{end}}")),
        End::Else(_, at) => Err(Wrong::new(at, "unexpected {{else}}")),
    }
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    length: usize,
    variables: Vec<String>,
    ranges: usize,
    depth: usize,
}

/// The words of one action that were not read yet.
struct Words {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    /// Where an error at the end is.
    end: usize,
}

impl Words {
    fn new(tokens: Vec<Token>, at: usize) -> Words {
        let end = tokens.last().map_or(at, |token| token.span.end);
        Words { tokens: tokens.into_iter().peekable(), end }
    }

    fn peek(&mut self) -> Option<&Word> {
        self.tokens.peek().map(|token| &token.word)
    }

    fn take_name(&mut self, name: &str) -> bool {
        let found = matches!(self.peek(), Some(Word::Name(found)) if found == name);
        if found {
            self.tokens.next();
        }
        found
    }

    fn nothing_more(&mut self, context: &str) -> Result<(), Wrong> {
        match self.tokens.next() {
            None => Ok(()),
            Some(token) => Err(Wrong::new(
                token.span.start,
                format!("unexpected {} in {context}", shown(&token.word)),
            )),
        }
    }
}

fn shown(word: &Word) -> String {
    match word {
        Word::Dot => "<.>".to_owned(),
        Word::Field { name, .. } => format!("<.{name}>"),
        Word::Variable(name) | Word::Name(name) => format!("<{name}>"),
        Word::Text(text) => format!("{text:?}"),
        Word::Number(number) => format!("{number:?}"),
        Word::Character(c) => format!("{c:?}"),
        Word::Pipe => "\"|\"".to_owned(),
        Word::Open => "\"(\"".to_owned(),
        Word::Close => "\")\"".to_owned(),
        Word::Comma => "\",\"".to_owned(),
        Word::Declare => "\":=\"".to_owned(),
        Word::Assign => "\"=\"".to_owned(),
    }
}

impl Parser {
    fn deeper(&mut self, at: usize) -> Result<(), Wrong> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Wrong::new(at, "it is nested too deeply"));
        }
        Ok(())
    }

    /// Nodes up to an `end`, an `else`, or the end of the source.
    fn list(&mut self) -> Result<(Vec<Node>, End), Wrong> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (tokens, at) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { tokens, at } => (tokens, at),
            };
            let mut words = Words::new(tokens, at);
            let keyword = match words.peek() {
                Some(Word::Name(name)) => name.clone(),
                _ => String::new(),
            };
            let is_keyword = matches!(
                keyword.as_str(),
                "if" | "with" | "range" | "end" | "else" | "break" | "continue"
            );
            if is_keyword {
                words.tokens.next();
            }
            match keyword.as_str() {
                "end" => {
                    words.nothing_more("end")?;
                    return Ok((nodes, End::Closed));
                }
                "else" => return Ok((nodes, End::Else(words, at))),
                "if" | "with" | "range" => nodes.push(self.control(&keyword, words, at)?),
                "break" | "continue" => {
                    words.nothing_more(&keyword)?;
                    if self.ranges == 0 {
                        let why = format!("{{{{{keyword}}}}} outside {{{{range}}}}");
                        return Err(Wrong::new(at, why));
                    }
                    nodes.push(if keyword == "break" { Node::Break } else { Node::Continue });
                }
                "define" | "block" | "template" => {
                    return Err(Wrong::new(at, format!("{keyword:?} is not supported")));
                }
                _ => {
                    let pipeline = self.pipeline(&mut words, "command", 1)?;
                    words.nothing_more("command")?;
                    nodes.push(Node::Action(pipeline));
                }
            }
        }
        Ok((nodes, End::Source))
    }

    /// `if`, `with` or `range` with all its branches.
    fn control(&mut self, keyword: &str, mut words: Words, at: usize) -> Result<Node, Wrong> {
        self.deeper(at)?;
        let scope = self.variables.len();
        let range = keyword == "range";
        let pipeline = self.pipeline(&mut words, keyword, if range { 2 } else { 1 })?;
        words.nothing_more(keyword)?;
        self.ranges += usize::from(range);
        let (then, end) = self.list()?;
        self.ranges -= usize::from(range);
        let otherwise = match end {
            End::Source => return Err(Wrong::new(self.length, "unexpected EOF")),
            End::Closed => Vec::new(),
            End::Else(mut words, at) if words.tokens.len() > 0 => {
                // `else if` and `else with` share the `end` of the first branch.
                let next = ["if", "with"].into_iter().find(|name| words.take_name(name));
                match next {
                    Some(next) if !range && next == keyword => {
                        vec![self.control(next, words, at)?]
                    }
                    _ => {
                        words.nothing_more("else")?;
                        return Err(Wrong::new(at, "unexpected <else> in command"));
                    }
                }
            }
            End::Else(..) => match self.list()? {
                (nodes, End::Closed) => nodes,
                (_, End::Source) => return Err(Wrong::new(self.length, "unexpected EOF")),
                (_, End::Else(_, at)) => {
                    return Err(Wrong::new(at, "expected end; found {{else}}"));
                }
            },
        };
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(if range {
            Node::Range { over: pipeline, body: then, otherwise }
        } else {
            Node::If { condition: pipeline, with: keyword == "with", then, otherwise }
        })
    }

    fn pipeline(
        &mut self,
        words: &mut Words,
        context: &str,
        variables: usize,
    ) -> Result<Pipeline, Wrong> {
        let (names, declares) = self.variables(words, context, variables)?;
        let mut commands = Vec::new();
        loop {
            commands.push(self.command(words, context)?);
            match words.peek() {
                Some(Word::Pipe) => {
                    words.tokens.next();
                }
                _ => break,
            }
        }
        for command in commands.iter().skip(1) {
            if let Some(Operand { kind: OperandKind::Literal(_), span, .. }) =
                command.operands.first()
            {
                let number = 2;
                let why = format!("non executable command in pipeline stage {number}");
                return Err(Wrong::new(span.start, why));
            }
        }
        // Only now: a variable is not known in its own definition.
        if declares {
            self.variables.extend(names.iter().cloned());
        }
        Ok(Pipeline { variables: names, declares, commands })
    }

    /// `$x :=`, `$x =`, and for `range` also `$i, $x :=`.
    fn variables(
        &mut self,
        words: &mut Words,
        context: &str,
        most: usize,
    ) -> Result<(Vec<String>, bool), Wrong> {
        let mut ahead = words.tokens.clone();
        let mut names = Vec::new();
        let mut at = words.end;
        while let Some(Token { word: Word::Variable(name), span }) = ahead.next() {
            names.push(name);
            at = span.start;
            match ahead.next().map(|token| token.word) {
                Some(Word::Comma) if names.len() < most => {}
                Some(Word::Comma) => {
                    return Err(Wrong::new(at, format!("too many declarations in {context}")));
                }
                Some(word @ (Word::Declare | Word::Assign)) => {
                    words.tokens = ahead;
                    let declares = word == Word::Declare;
                    for name in names.iter().filter(|_| !declares) {
                        self.check_variable(name, at)?;
                    }
                    return Ok((names, declares));
                }
                _ => return Ok((Vec::new(), false)),
            }
        }
        if names.is_empty() {
            return Ok((names, false));
        }
        Err(Wrong::new(at, "range can only initialize variables"))
    }

    fn check_variable(&self, name: &String, at: usize) -> Result<(), Wrong> {
        if self.variables.contains(name) {
            return Ok(());
        }
        Err(Wrong::new(at, format!("undefined variable {name:?}")))
    }

    fn command(&mut self, words: &mut Words, context: &str) -> Result<Command, Wrong> {
        let mut operands: Vec<Operand> = Vec::new();
        while !matches!(words.peek(), None | Some(Word::Pipe | Word::Close)) {
            let operand = self.operand(words)?;
            operands.push(operand);
        }
        let (Some(first), Some(last)) = (operands.first(), operands.last()) else {
            return Err(Wrong::new(words.end, format!("missing value for {context}")));
        };
        let span = Span { start: first.span.start, end: last.span.end };
        Ok(Command { operands, span })
    }

    fn operand(&mut self, words: &mut Words) -> Result<Operand, Wrong> {
        let Some(Token { word, span }) = words.tokens.next() else {
            return Err(Wrong::new(words.end, "missing value for command"));
        };
        let mut fields = Vec::new();
        let mut span = span;
        let kind = match word {
            Word::Dot => OperandKind::Dot,
            Word::Field { name, .. } => {
                fields.push(name);
                OperandKind::Dot
            }
            Word::Variable(name) => {
                self.check_variable(&name, span.start)?;
                OperandKind::Variable(name)
            }
            Word::Name(name) => match name.as_str() {
                "true" => OperandKind::Literal(Value::Bool(true)),
                "false" => OperandKind::Literal(Value::Bool(false)),
                "nil" => OperandKind::Literal(Value::Null),
                _ if functions::is_known(&name) => OperandKind::Function(name),
                _ => {
                    let why = format!("function {name:?} not defined");
                    return Err(Wrong::new(span.start, why));
                }
            },
            Word::Text(text) => OperandKind::Literal(Value::String(text)),
            Word::Character(c) => OperandKind::Literal(Value::from(u32::from(c))),
            Word::Number(text) => {
                let value = number(&text).ok_or_else(|| {
                    Wrong::new(span.start, format!("bad number syntax: {text:?}"))
                })?;
                OperandKind::Literal(value)
            }
            Word::Open => {
                self.deeper(span.start)?;
                let inner = self.pipeline(words, "parenthesized pipeline", 1)?;
                match words.tokens.next() {
                    Some(Token { word: Word::Close, span: close }) => span.end = close.end,
                    _ => return Err(Wrong::new(words.end, "unclosed left paren")),
                }
                self.depth -= 1;
                OperandKind::Brackets(Box::new(inner))
            }
            word => {
                let why = format!("unexpected {} in operand", shown(&word));
                return Err(Wrong::new(span.start, why));
            }
        };
        while let Some(Token { word: Word::Field { name, .. }, span: place }) =
            words.tokens.next_if(|token| matches!(token.word, Word::Field { joined: true, .. }))
        {
            if let OperandKind::Literal(_) | OperandKind::Function(_) = kind {
                let why = format!("unexpected . after term {name:?}");
                return Err(Wrong::new(place.start, why));
            }
            fields.push(name);
            span.end = place.end;
        }
        Ok(Operand { kind, fields, span })
    }
}

fn number(text: &str) -> Option<Value> {
    let plain = text.replace('_', "");
    let (sign, digits): (i64, &str) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = digits.strip_prefix(prefix) {
            let number = i64::from_str_radix(digits, radix).ok()?;
            return number.checked_mul(sign).map(Value::from);
        }
    }
    if let Ok(integer) = digits.parse::<i64>() {
        return integer.checked_mul(sign).map(Value::from);
    }
    let float = digits.parse::<f64>().ok().filter(|float| float.is_finite())?;
    Some(Value::from(if sign < 0 { -float } else { float }))
}
