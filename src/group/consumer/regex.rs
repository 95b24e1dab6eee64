//! Subscriptions by regular expression (KIP-848, `TopicRegexResolver.java`).
//!
//! The engine runs in time linear in the name, whatever the expression, and what
//! an expression compiles to is bounded by [`REGEX_COMPILED_MAX`]. The syntax is
//! that of the `regex` crate, RE2's but for details. An expression has to match
//! a name as a whole.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::assign::Budget;
use crate::base::limits::{REGEX_BYTES_MAX, REGEX_COMPILED_MAX, REGEX_NESTING_MAX};
use crate::group::records::consumer::ResolvedRegex;
use crate::metadata::image::Image;
use crate::model::ids::TopicName;

/// What it costs to compile an expression, and to match a name.
const COMPILE_UNITS: usize = 1_000;
const MATCH_UNITS: usize = 2;

/// Compiles an expression.
///
/// # Errors
/// Why it cannot be used, for people.
fn compile(regex: &str) -> Result<Regex, String> {
    if regex.len() > REGEX_BYTES_MAX {
        return Err(format!("it is longer than {REGEX_BYTES_MAX} bytes"));
    }
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(REGEX_COMPILED_MAX)
            .dfa_size_limit(REGEX_COMPILED_MAX)
            .nest_limit(REGEX_NESTING_MAX)
            .build()
            .map_err(|error| error.to_string())
    };
    // By itself first: a bracket too many must not end the group around it.
    build(regex)?;
    build(&format!(r"\A(?:{regex})\z"))
}

/// A look for the topics that an expression matches, in slices.
#[derive(Debug)]
pub struct Lookup {
    /// The expression.
    pub regex: Arc<str>,
    /// Not yet if it is one that was valid before.
    compiled: Option<Regex>,
    found: Vec<TopicName>,
    last: Option<TopicName>,
}

impl Lookup {
    /// A look for what a new expression matches.
    ///
    /// # Errors
    /// Why it cannot be used, for people.
    pub fn new(regex: &Arc<str>) -> Result<Self, String> {
        let compiled = Some(compile(regex)?);
        Ok(Self { compiled, ..Self::again(regex) })
    }

    /// A look for what an expression that was valid before matches now.
    pub fn again(regex: &Arc<str>) -> Self {
        Self { regex: regex.clone(), compiled: None, found: vec![], last: None }
    }

    /// Goes on in an image that is always the same; what it matches when all is seen.
    ///
    /// # Errors
    /// Why it cannot be used: another release may have thought otherwise.
    pub fn go_on(
        &mut self,
        image: &Image,
        now_ms: i64,
        budget: &mut Budget,
    ) -> Result<Option<ResolvedRegex>, String> {
        let compiled = match &mut self.compiled {
            Some(compiled) => compiled,
            none => {
                budget.take(COMPILE_UNITS);
                none.insert(compile(&self.regex)?)
            }
        };
        let from = self.last.clone();
        for topic in image.topics_after(from.as_deref()) {
            if budget.is_over() {
                return Ok(None);
            }
            budget.take(MATCH_UNITS);
            if compiled.is_match(&topic.name) {
                self.found.push(topic.name.clone());
            }
            self.last = Some(topic.name.clone());
        }
        let topics = std::mem::take(&mut self.found).into_iter().collect();
        let version = image.offset.0 as i64;
        Ok(Some(ResolvedRegex { topics, version, timestamp_ms: now_ms }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_whole_names_or_are_refused() {
        for (regex, name, matches) in [
            ("foo.*", "foobar", true),
            ("foo", "foobar", false),
            ("^foo$", "foo", true),
            ("a|b", "ab", false),
            ("a|b", "b", true),
            (".*-[0-9]{3}", "x-123", true),
        ] {
            assert_eq!(compile(regex).expect(regex).is_match(name), matches, "{regex} {name}");
        }
        // Brackets that do not match, one that would end the group around it, a
        // comment that would swallow the end, and expressions that explode.
        let long = "a".repeat(REGEX_BYTES_MAX + 1);
        let nested = "(".repeat(1000) + "a" + &")".repeat(1000);
        for regex in ["(", "*", "a)(b", "a)|(?:b", "(?x)a #", "(a{1000}){1000}", &long, &nested] {
            assert!(compile(regex).is_err(), "{regex}");
        }
        // One that backtracking engines never end with.
        let slow = compile("(a+)+$").expect("valid");
        assert!(!slow.is_match(&("a".repeat(249) + "b")));
    }
}
