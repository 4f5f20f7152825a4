//! Which paths a list of patterns means: those of `.dockerignore` and of BuildKit's include and exclude lists.
//!
//! The rules are those of moby/patternmatcher, its odd corners too: a `.dockerignore` must mean the same to every client. A pattern names a
//! path and all that is under it; `!` takes back; the last that matches wins; `**` crosses slashes.

use std::iter::Peekable;

use regex::Regex;

use super::gopath::{Glob, clean};

/// A list of patterns.
#[derive(Debug, Default)]
pub(super) struct Patterns(Vec<Pattern>);

/// Which patterns of a list match a folder, or one above it: what [`Patterns::matches`] of what is in it needs.
pub(super) type Matched = Vec<bool>;

/// One pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    sense: Sense,
    /// Without the `!`.
    text: String,
    means: Means,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sense {
    Names,
    TakesBack,
}

/// How a path is compared. The first three are what most patterns are.
#[derive(Debug)]
enum Means {
    /// The path itself.
    Path,
    /// Everything that begins with the text before the final `**`.
    Under,
    /// Everything that ends with the text after the initial `**`.
    Ending,
    /// Everything of this form.
    Form(Regex),
}

/// A list that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pattern")]
pub(super) struct BadPatterns(String);

impl Patterns {
    pub(super) fn parse<'a>(
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, BadPatterns> {
        patterns
            .into_iter()
            .map(str::trim)
            .filter(|pattern| !pattern.is_empty())
            .map(|pattern| Pattern::parse(pattern).ok_or_else(|| BadPatterns(pattern.into())))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether they mean this path, a cleaned relative one, given which of them match the folder that it is in; none, if that is the root.
    /// `matched` becomes the same about this path.
    pub(super) fn matches(&self, path: &str, parent: &[bool], matched: &mut Matched) -> bool {
        matched.clear();
        let mut means = false;
        for (at, pattern) in self.0.iter().enumerate() {
            let mut matches = parent.get(at).copied().unwrap_or_default();
            if !matches {
                // It would change nothing.
                if (pattern.sense == Sense::TakesBack) != means {
                    matched.push(false);
                    continue;
                }
                matches = pattern.matches(path);
            }
            matched.push(matches);
            if matches {
                means = pattern.sense == Sense::Names;
            }
        }
        means
    }

    /// The patterns that name paths.
    pub(super) fn naming(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter().filter(|p| p.sense == Sense::Names)
    }

    /// The patterns that take back.
    pub(super) fn taking_back(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter().filter(|p| p.sense == Sense::TakesBack)
    }
}

impl Pattern {
    fn parse(pattern: &str) -> Option<Self> {
        let text = clean(pattern);
        let (sense, text) = match text.strip_prefix('!') {
            Some("") => return None,
            Some(rest) => (Sense::TakesBack, rest.to_owned()),
            None => (Sense::Names, text),
        };
        Glob::parse(&text).ok()?;
        let means = Means::of(&text)?;
        Some(Self { sense, text, means })
    }

    fn matches(&self, path: &str) -> bool {
        match &self.means {
            Means::Path => path == self.text,
            Means::Under => path.starts_with(&self.text[..self.text.len() - 2]),
            Means::Ending => {
                let end = &self.text[2..];
                path.ends_with(end) || end.strip_prefix('/') == Some(path)
            }
            Means::Form(form) => form.is_match(path),
        }
    }

    /// The pattern without a final `/*` or `/**`.
    fn stem(&self) -> &str {
        let stem = self.text.strip_suffix("/**").unwrap_or(&self.text);
        stem.strip_suffix("/*").unwrap_or(stem)
    }

    /// Whether all that it means is under one path, which can be read off it.
    pub(super) fn is_plain(&self) -> bool {
        !self.stem().contains(['*', '[', ']', '?', '^', '\\'])
    }

    /// Whether a plain pattern may mean something in this folder.
    pub(super) fn leads_into(&self, folder: &str) -> bool {
        let stem = self.stem();
        stem.strip_prefix(folder)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Means {
    /// What a pattern means; `None` if it means nothing.
    fn of(pattern: &str) -> Option<Self> {
        let mut means = Self::Path;
        let mut form = String::from("^");
        let mut has_form = false;
        let mut rest = pattern.chars().peekable();
        let mut first = true;
        while let Some(c) = rest.next() {
            match c {
                '*' if rest.next_if_eq(&'*').is_some() => {
                    rest.next_if_eq(&'/');
                    match rest.peek() {
                        Some(_) => {
                            form.push_str("(.*/)?");
                            has_form = true;
                        }
                        None if matches!(means, Self::Path) && !has_form => means = Self::Under,
                        None => {
                            form.push_str(".*");
                            has_form = true;
                        }
                    }
                    if first {
                        means = Self::Ending;
                        has_form = false;
                    }
                }
                '*' => {
                    form.push_str("[^/]*");
                    has_form = true;
                }
                '?' => {
                    form.push_str("[^/]");
                    has_form = true;
                }
                '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                    form.push('\\');
                    form.push(c);
                }
                '\\' => {
                    form.push('\\');
                    if let Some(next) = rest.next() {
                        form.push(next);
                        has_form = true;
                    }
                }
                '[' | ']' => {
                    form.push(c);
                    has_form = true;
                }
                c => form.push(c),
            }
            first = false;
        }
        if has_form {
            form.push('$');
            means = Self::Form(Regex::new(&translated(&form)?).ok()?);
        }
        Some(means)
    }
}

/// A regular expression as Go reads it, written so that it means the same here: classes hold what is in them and have no operators, and
/// escaped letters mean ASCII.
fn translated(go: &str) -> Option<String> {
    let mut form = String::with_capacity(go.len());
    let mut rest = go.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match escape(&mut rest)? {
                Escape::Is(c) => push(&mut form, c),
                Escape::Among(class) => form.push_str(&format!("[{class}]")),
                Escape::NotAmong(class) => form.push_str(&format!("[^{class}]")),
                Escape::Place(place) => form.push_str(place),
            },
            '[' => class(&mut rest, &mut form)?,
            c => form.push(c),
        }
    }
    Some(form)
}

enum Escape {
    Is(char),
    Among(&'static str),
    NotAmong(&'static str),
    Place(&'static str),
}

fn escape(rest: &mut Peekable<impl Iterator<Item = char>>) -> Option<Escape> {
    const DIGITS: &str = "0-9";
    const SPACES: &str = r"\t\n\f\r ";
    const LETTERS: &str = "0-9A-Za-z_";
    Some(match rest.next()? {
        'd' => Escape::Among(DIGITS),
        'D' => Escape::NotAmong(DIGITS),
        's' => Escape::Among(SPACES),
        'S' => Escape::NotAmong(SPACES),
        'w' => Escape::Among(LETTERS),
        'W' => Escape::NotAmong(LETTERS),
        'b' => Escape::Place(r"(?-u:\b)"),
        'A' => Escape::Place(r"\A"),
        'z' => Escape::Place(r"\z"),
        'a' => Escape::Is('\x07'),
        'f' => Escape::Is('\x0c'),
        'n' => Escape::Is('\n'),
        'r' => Escape::Is('\r'),
        't' => Escape::Is('\t'),
        'v' => Escape::Is('\x0b'),
        c if c.is_ascii_punctuation() || c == ' ' => Escape::Is(c),
        _ => return None,
    })
}

fn class(rest: &mut Peekable<impl Iterator<Item = char>>, form: &mut String) -> Option<()> {
    form.push('[');
    if rest.next_if_eq(&'^').is_some() {
        form.push('^');
    }
    let mut first = true;
    while first || rest.next_if_eq(&']').is_none() {
        first = false;
        let Some(low) = in_class(rest, form)? else {
            continue;
        };
        push(form, low);
        if rest.next_if_eq(&'-').is_some() {
            match rest.peek()? {
                ']' => push(form, '-'),
                _ => {
                    form.push('-');
                    let high = in_class(rest, form)??;
                    push(form, high);
                }
            }
        }
    }
    form.push(']');
    Some(())
}

/// The next character of a class; `None` within if it was several, which are in the form by now.
fn in_class(
    rest: &mut Peekable<impl Iterator<Item = char>>,
    form: &mut String,
) -> Option<Option<char>> {
    match rest.next()? {
        '\\' => match escape(rest)? {
            Escape::Is(c) => Some(Some(c)),
            Escape::Among(class) => {
                form.push_str(class);
                Some(None)
            }
            Escape::NotAmong(class) => {
                form.push_str(&format!("[^{class}]"));
                Some(None)
            }
            Escape::Place(_) => None,
        },
        c => Some(Some(c)),
    }
}

fn push(form: &mut String, c: char) {
    form.push_str(&format!("\\x{{{:x}}}", u32::from(c)));
}

#[cfg(test)]
impl Patterns {
    /// Whether they mean a path, asked from the top down as a walk does.
    pub(super) fn mean(&self, path: &str) -> bool {
        let mut parent = Matched::new();
        let mut means = false;
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let mut matched = Matched::new();
            means = self.matches(&path[..end], &parent, &mut matched);
            parent = matched;
        }
        means
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &[&str], path: &str, wanted: bool) {
        let parsed = Patterns::parse(patterns.iter().copied()).unwrap();
        assert_eq!(parsed.mean(path), wanted, "{patterns:?} {path}");
    }

    #[test]
    fn a_pattern_means_what_it_does_to_every_other_client() {
        for (pattern, path, wanted) in [
            ("file", "file", true),
            ("file", "dir/file", false),
            ("file", "files", false),
            ("dir", "dir/deep/file", true),
            ("dir/", "dir/file", true),
            ("./dir//", "dir/file", true),
            ("a/../dir", "dir/file", true),
            (" dir\t", "dir", true),
            ("*", "any/thing", true),
            ("*.go", "main.go", true),
            ("*.go", "dir/main.go", false),
            ("*/main.go", "dir/main.go", true),
            ("d?r", "dir/x", true),
            ("d?r", "d/r", false),
            ("**", "any/thing", true),
            ("**/", "thing", true),
            ("dir/**", "dir/deep/file", true),
            ("dir/**", "dir", false),
            ("dir/**", "dirt/file", false),
            ("**/file", "file", true),
            ("**/file", "a/b/file", true),
            ("**/file", "a/profile", false),
            ("**file", "a/profile", true),
            ("**/*.txt", "a/b.txt", true),
            ("**/*.txt", "b.txt", true),
            ("**/**/*.txt", "a/b/c.txt", true),
            ("**/dir/*", "a/dir/file", true),
            ("**/dir/*", "a/dir", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "az", false),
            ("a**", "abc/d", true),
            ("a**/**/c", "abc/c", true),
            ("a**/**/c", "abc", false),
            ("a**/**/c", "a/b/c", true),
            ("**/a/**", "x/a/b", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[a&&b]", "&", true),
            ("[a&&b]", "a", true),
            ("[a~~b]", "~", true),
            ("[[]x", "[x", true),
            ("[\\]]x", "]x", true),
            ("[a\\-c]", "b", false),
            ("[a\\-c]", "-", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("a.c", "abc", false),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("a(b)+/c", "a(b)+/c", true),
            (
                "wheel-2.4.0rc3+g08a-none.whl",
                "wheel-2.4.0rc3+g08a-none.whl",
                true,
            ),
            ("größe*", "größer", true),
            ("?", "ß", true),
            ("a^b*", "a^bc", false),
            ("#x", "#x", true),
            ("a b", "a b", true),
        ] {
            check(&[pattern], path, wanted);
        }
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        for (patterns, path, wanted) in [
            (&["*", "!keep"][..], "keep", false),
            (&["*", "!keep"], "keep/file", false),
            (&["*", "!keep"], "drop", true),
            (&["!keep", "*"], "keep", true),
            (&["dir", "!dir/keep"], "dir/keep", false),
            (&["dir", "!dir/keep"], "dir/drop", true),
            (
                &["dir", "!dir/keep", "dir/keep/drop"],
                "dir/keep/drop",
                true,
            ),
            (
                &["dir", "!dir/keep", "dir/keep/drop"],
                "dir/keep/other",
                false,
            ),
            (
                &["**/*.md", "!README*.md", "README-secret.md"],
                "README-secret.md",
                true,
            ),
            (
                &["**/*.md", "!README*.md", "README-secret.md"],
                "README.md",
                false,
            ),
            (&["docs", "!**/*.md"], "docs/a.md", false),
            (&["", "  "], "x", false),
            (&["!x"], "x", false),
        ] {
            check(patterns, path, wanted);
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for bad in ["!", "[", "[]", "a[", "[a-", "x\\", "[c-a]", "\\k"] {
            let refused = Patterns::parse([bad]).unwrap_err();
            assert_eq!(refused, BadPatterns(bad.into()));
        }
    }
}
