//! Java's properties syntax (`java.util.Properties.load`), as Kafka's
//! configuration files have it.

use super::ConfigError;

/// One setting as somebody wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Where it was written, for messages: `server.properties:12`, `--set`.
    pub origin: String,
    /// The key.
    pub key: String,
    /// The value, without spaces around it.
    pub value: String,
}

impl Assignment {
    /// Reads `key=value` as given to `--set`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(ConfigError(format!("--set {text}: must be key=value")));
        };
        Ok(Self {
            origin: "--set".to_owned(),
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
        })
    }
}

/// Reads a properties file. `name` stands for it in messages.
///
/// Lines that start with `#` or `!` are comments; `=`, `:` or a space end a key;
/// a backslash continues a line or escapes a character.
pub fn parse(name: &str, text: &str) -> Result<Vec<Assignment>, ConfigError> {
    let mut assignments = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = line.to_owned();
        while continues(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else {
                break;
            };
            logical.push_str(next.trim_start());
        }
        let origin = format!("{name}:{}", index + 1);
        let (key, value) = split(&logical);
        let text = |raw: &str| {
            unescape(raw).ok_or_else(|| {
                ConfigError(format!("{origin}: {logical}: \\u must be followed by four hex digits"))
            })
        };
        let (key, value) = (text(key)?, text(value)?.trim().to_owned());
        assignments.push(Assignment { origin, key, value });
    }
    Ok(assignments)
}

/// Whether a line ends in a backslash that is not itself escaped.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Cuts a logical line into the raw key and the raw value.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line
        .char_indices()
        .find(|(_, c)| {
            let ends = !escaped && (matches!(c, '=' | ':') || c.is_ascii_whitespace());
            escaped = !escaped && *c == '\\';
            ends
        })
        .map_or(line.len(), |(at, _)| at);
    let rest = line[end..].trim_start();
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], value.trim_start())
}

/// `None` for a `\u` without four hex digits or that gives no character.
fn unescape(raw: &str) -> Option<String> {
    let mut units: Vec<u16> = Vec::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits = chars.as_str().get(..4)?;
                    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                        return None;
                    }
                    units.push(u16::from_str_radix(digits, 16).ok()?);
                    chars = chars.as_str()[4..].chars();
                    continue;
                }
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn javas_syntax() {
        let text = "\
# a comment
! another
   \t
plain=value
  spaced   =   with  inner spaces
colon: a=b
space value
bare
empty=
long = one,\\
       two,\\
  three
key\\=with\\:marks = \\tx\\\\y
uni = \\u00e4\\ud83d\\ude00 ä
not.continued = ends\\\\
last = tail\\";
        let read = parse("file", text).expect("good syntax");
        let expected = [
            (4, "plain", "value"),
            (5, "spaced", "with  inner spaces"),
            (6, "colon", "a=b"),
            (7, "space", "value"),
            (8, "bare", ""),
            (9, "empty", ""),
            (10, "long", "one,two,three"),
            (13, "key=with:marks", "x\\y"),
            (14, "uni", "ä😀 ä"),
            (15, "not.continued", "ends\\"),
            (16, "last", "tail"),
        ];
        let read: Vec<_> =
            read.iter().map(|a| (a.origin.as_str(), a.key.as_str(), a.value.as_str())).collect();
        let expected: Vec<_> =
            expected.iter().map(|(line, k, v)| (format!("file:{line}"), *k, *v)).collect();
        assert_eq!(read, expected.iter().map(|(o, k, v)| (o.as_str(), *k, *v)).collect::<Vec<_>>());
    }

    #[test]
    fn bad_escapes_and_overrides_are_one_line() {
        for text in ["a=\\u12", "a=\\u12g4", "a=\\ud83d", "a=\\u+123"] {
            let error = parse("file", text).expect_err(text).to_string();
            assert!(error.starts_with("file:1: a=") && !error.contains('\n'), "{error}");
        }
        assert_eq!(
            Assignment::parse("num.partitions").expect_err("no value").to_string(),
            "--set num.partitions: must be key=value"
        );
        let good = Assignment::parse(" a = b=c ").expect("good");
        assert_eq!((good.key.as_str(), good.value.as_str()), ("a", "b=c"));
    }
}
