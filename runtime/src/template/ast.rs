//! What a template consists of.

use serde_json::Value;

/// A part of the source, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// A piece of a template.
#[derive(Debug, Clone)]
pub enum Node {
    /// Printed as it is.
    Text(String),
    /// Evaluated and, unless it sets variables, printed.
    Action(Pipeline),
    /// `if`: the first branch whose condition holds. `with` also makes it the dot.
    If {
        /// The condition.
        condition: Pipeline,
        /// Whether it is a `with`.
        with: bool,
        /// When it holds.
        then: Vec<Node>,
        /// When not.
        otherwise: Vec<Node>,
    },
    /// `range`.
    Range {
        /// What is gone through.
        over: Pipeline,
        /// For each element.
        body: Vec<Node>,
        /// When there is none.
        otherwise: Vec<Node>,
    },
    /// Leaves the innermost `range`.
    Break,
    /// Goes on with the next element.
    Continue,
}

/// Commands, each given the result of the one before as its last argument.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Variables that are set, with their `$`.
    pub variables: Vec<String>,
    /// Whether they are made (`:=`) or changed (`=`).
    pub declares: bool,
    /// The commands; at least one.
    pub commands: Vec<Command>,
}

/// An operand, or a function and its arguments.
#[derive(Debug, Clone)]
pub struct Command {
    /// At least one.
    pub operands: Vec<Operand>,
    /// Where it stands.
    pub span: Span,
}

/// A word of a command.
#[derive(Debug, Clone)]
pub struct Operand {
    /// What it is.
    pub kind: OperandKind,
    /// Fields of it: `.A.B` after a variable or brackets.
    pub fields: Vec<String>,
    /// Where it stands.
    pub span: Span,
}

/// What an operand starts with.
#[derive(Debug, Clone)]
pub enum OperandKind {
    /// The dot; with fields, `.A.B`.
    Dot,
    /// A variable, with its `$`.
    Variable(String),
    /// A function's name.
    Function(String),
    /// A constant.
    Literal(Value),
    /// A pipeline in brackets.
    Brackets(Box<Pipeline>),
}
