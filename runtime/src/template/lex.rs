//! From characters to words: text, and what stands between `{{` and `}}`.

use super::ast::Span;

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    /// `.`
    Dot,
    /// `.Name`, directly behind the word before when `joined`.
    Field {
        /// Without the dot.
        name: String,
        /// Whether no space stands before it.
        joined: bool,
    },
    /// `$` or `$name`.
    Variable(String),
    /// A keyword, a function, `true`, `false` or `nil`.
    Name(String),
    /// A string or a character, unquoted.
    Text(String),
    /// A number, as written.
    Number(String),
    /// A character: its number.
    Character(char),
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `,`
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// A word and its place.
#[derive(Debug, Clone)]
pub struct Token {
    /// The word.
    pub word: Word,
    /// Where it stands.
    pub span: Span,
}

/// A piece of the template.
#[derive(Debug)]
pub enum Piece {
    /// Outside of the braces.
    Text(String),
    /// Inside.
    Action {
        /// The words.
        tokens: Vec<Token>,
        /// Where the opening braces are.
        at: usize,
    },
}

/// What is wrong, and where.
#[derive(Debug)]
pub struct Wrong {
    /// The byte.
    pub at: usize,
    /// The sentence.
    pub why: String,
}

impl Wrong {
    pub(super) fn new(at: usize, why: impl Into<String>) -> Wrong {
        Wrong { at, why: why.into() }
    }
}

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// Splits a template.
pub fn pieces(source: &str) -> Result<Vec<Piece>, Wrong> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut trim = false;
    loop {
        let rest = source.get(at..).unwrap_or_default();
        let Some(open) = rest.find("{{") else {
            push_text(&mut pieces, if trim { rest.trim_start_matches(SPACE) } else { rest });
            return Ok(pieces);
        };
        let mut text = rest.get(..open).unwrap_or_default();
        if trim {
            text = text.trim_start_matches(SPACE);
        }
        let mut inside = at + open + 2;
        let after = |at: usize| source.get(at..).unwrap_or_default();
        if after(inside).starts_with('-') && after(inside + 1).starts_with(SPACE) {
            text = text.trim_end_matches(SPACE);
            inside += 1;
        }
        push_text(&mut pieces, text);
        let body = after(inside);
        let comment = inside + (body.len() - body.trim_start_matches(SPACE).len());
        if after(comment).starts_with("/*") {
            let end = after(comment).find("*/");
            let end = end.ok_or_else(|| Wrong::new(comment, "unclosed comment"))?;
            let behind = comment + end + 2;
            let close = after(behind).trim_start_matches(SPACE);
            let spaced = close.len() != after(behind).len();
            trim = spaced && close.starts_with("-}}");
            if !trim && !after(behind).starts_with("}}") {
                return Err(Wrong::new(comment, "comment ends before closing delimiter"));
            }
            at = source.len() - close.len() + if trim { 3 } else { 2 };
            continue;
        }
        let mut lexer = Lexer { source, at: inside };
        let tokens = lexer.action()?;
        trim = after(lexer.at).starts_with('-');
        pieces.push(Piece::Action { tokens, at: inside });
        at = lexer.at + if trim { 3 } else { 2 };
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    /// The words up to the closing braces, which stay.
    fn action(&mut self) -> Result<Vec<Token>, Wrong> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut depth = 0_usize;
        loop {
            let before = self.rest().len();
            let trimmed = self.rest().trim_start_matches(SPACE);
            let spaced = trimmed.len() != before;
            self.at += before - trimmed.len();
            if self.rest().starts_with("}}") || (spaced && self.rest().starts_with("-}}")) {
                if depth > 0 {
                    return Err(Wrong::new(self.at, "unclosed left paren"));
                }
                return Ok(tokens);
            }
            let start = self.at;
            let Some(first) = self.rest().chars().next() else {
                return Err(Wrong::new(start, "unclosed action"));
            };
            let word = self.word(first, spaced || tokens.is_empty())?;
            match word {
                Word::Open => depth += 1,
                Word::Close if depth == 0 => {
                    return Err(Wrong::new(start, "unexpected right paren"));
                }
                Word::Close => depth -= 1,
                _ => {}
            }
            tokens.push(Token { word, span: Span { start, end: self.at } });
        }
    }

    fn word(&mut self, first: char, spaced: bool) -> Result<Word, Wrong> {
        let start = self.at;
        let second = self.rest().chars().nth(1);
        let mut take = |bytes: usize, word: Word| {
            self.at += bytes;
            Ok(word)
        };
        match first {
            '|' => take(1, Word::Pipe),
            '(' => take(1, Word::Open),
            ')' => take(1, Word::Close),
            ',' => take(1, Word::Comma),
            '=' => take(1, Word::Assign),
            ':' if second == Some('=') => take(2, Word::Declare),
            '"' => self.quoted().map(Word::Text),
            '`' => {
                let text = self.rest().get(1..).unwrap_or_default();
                let end = text.find('`');
                let end = end.ok_or_else(|| Wrong::new(start, "unterminated raw quoted string"))?;
                let text = text.get(..end).unwrap_or_default().to_owned();
                self.at += end + 2;
                Ok(Word::Text(text))
            }
            '\'' => self.character(),
            '.' if second.is_none_or(|c| !c.is_alphanumeric() && c != '_') => take(1, Word::Dot),
            '.' if second.is_some_and(|c| !c.is_ascii_digit()) => {
                self.at += 1;
                Ok(Word::Field { name: self.name(), joined: !spaced })
            }
            '$' => {
                self.at += 1;
                Ok(Word::Variable(format!("${}", self.name())))
            }
            '.' | '+' | '-' | '0'..='9' => Ok(self.number()),
            c if c.is_alphabetic() || c == '_' => Ok(Word::Name(self.name())),
            c => Err(Wrong::new(start, format!("unexpected {c:?} in command"))),
        }
    }

    fn name(&mut self) -> String {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default().to_owned()
    }

    fn number(&mut self) -> Word {
        let rest = self.rest();
        let signed = usize::from(rest.starts_with(['+', '-']));
        let digits = rest.get(signed..).unwrap_or_default();
        let mut previous = ' ';
        let end = digits
            .find(|c: char| {
                let exponent = matches!(previous, 'e' | 'E' | 'p' | 'P') && matches!(c, '+' | '-');
                previous = c;
                !(c.is_alphanumeric() || c == '.' || c == '_' || exponent)
            })
            .unwrap_or(digits.len());
        self.at += signed + end;
        Word::Number(rest.get(..signed + end).unwrap_or_default().to_owned())
    }

    fn character(&mut self) -> Result<Word, Wrong> {
        let start = self.at;
        let wrong = || Wrong::new(start, "unterminated character constant");
        let mut chars = self.rest().char_indices().skip(1);
        let (_, mut c) = chars.next().ok_or_else(wrong)?;
        if c == '\\' {
            let (_, escaped) = chars.next().ok_or_else(wrong)?;
            c = escape(escaped).ok_or_else(wrong)?;
        }
        match chars.next() {
            Some((at, '\'')) => {
                self.at += at + 1;
                Ok(Word::Character(c))
            }
            _ => Err(wrong()),
        }
    }

    fn quoted(&mut self) -> Result<String, Wrong> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        let wrong = || Wrong::new(start, "unterminated quoted string");
        loop {
            match chars.next().ok_or_else(wrong)? {
                (at, '"') => {
                    self.at += at + 1;
                    return Ok(text);
                }
                (_, '\n') => return Err(wrong()),
                (_, '\\') => {
                    let (_, c) = chars.next().ok_or_else(wrong)?;
                    let digits = match c {
                        'x' => 2,
                        'u' => 4,
                        'U' => 8,
                        _ => 0,
                    };
                    let c = if digits > 0 {
                        let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                        u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32)
                    } else {
                        escape(c)
                    };
                    text.push(c.ok_or_else(|| Wrong::new(start, "invalid syntax in a string"))?);
                }
                (_, c) => text.push(c),
            }
        }
    }
}

/// What a character behind a backslash stands for.
fn escape(c: char) -> Option<char> {
    Some(match c {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        '\\' | '"' | '\'' => c,
        _ => return None,
    })
}
