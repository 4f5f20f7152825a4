//! Paths and glob patterns by the rules of Go's `path/filepath`, on which BuildKit's filters rest. Slashes are the only separators.

/// The shortest path that leads to the same place, by its text alone; `.` for an empty one.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// The same within a root, above which nothing is: `..` leads nowhere there, and an absolute path begins there. Empty for the root.
pub(super) fn clean_within(path: &str) -> String {
    let mut path = clean(&format!("/{path}"));
    path.remove(0);
    path
}

/// The folder that a cleaned relative path is in; empty for the root.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A pattern that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadPattern;

/// A glob pattern, as Go's `filepath.Match` takes one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Glob(Vec<Token>);

#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// `*`: anything but slashes.
    Many,
    /// `?`: any character but a slash.
    One,
    /// One character.
    Is(char),
    /// `[…]`: one character that is, or is not, within one of these.
    Among(Vec<(char, char)>, Sense),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sense {
    Within,
    Without,
}

impl Glob {
    pub(super) fn parse(pattern: &str) -> Result<Self, BadPattern> {
        let mut rest = pattern.chars().peekable();
        let mut tokens = Vec::new();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => Token::Many,
                '?' => Token::One,
                '\\' => Token::Is(rest.next().ok_or(BadPattern)?),
                '[' => among(&mut rest)?,
                c => Token::Is(c),
            });
        }
        Ok(Self(tokens))
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut token, mut at) = (0, 0);
        // Where to go on if what follows the last `*` doesn't fit: it takes one character more.
        let mut again = None;
        loop {
            match (self.0.get(token), name.get(at)) {
                (None, None) => return true,
                (Some(Token::Many), _) => {
                    again = Some((token, at));
                    token += 1;
                    continue;
                }
                (Some(wanted), Some(&c)) if wanted.is(c) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match again {
                Some((many, taken)) if name.get(taken).is_some_and(|&c| c != '/') => {
                    again = Some((many, taken + 1));
                    (token, at) = (many + 1, taken + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    fn is(&self, c: char) -> bool {
        match self {
            Self::Many => false,
            Self::One => c != '/',
            Self::Is(this) => *this == c,
            Self::Among(ranges, sense) => {
                ranges.iter().any(|(low, high)| (low..=high).contains(&&c))
                    == (*sense == Sense::Within)
            }
        }
    }
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn among(rest: &mut Rest<'_>) -> Result<Token, BadPattern> {
    let sense = match rest.next_if_eq(&'^') {
        Some(_) => Sense::Without,
        None => Sense::Within,
    };
    let mut ranges = Vec::new();
    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
        let low = member(rest)?;
        let high = match rest.next_if_eq(&'-') {
            Some(_) => member(rest)?,
            None => low,
        };
        ranges.push((low, high));
    }
    Ok(Token::Among(ranges, sense))
}

fn member(rest: &mut Rest<'_>) -> Result<char, BadPattern> {
    let member = match rest.next() {
        None | Some('-' | ']') => None,
        Some('\\') => rest.next(),
        member => member,
    };
    // Something must follow, if only the end of the class.
    member.filter(|_| rest.peek().is_some()).ok_or(BadPattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaned_paths_are_the_shortest() {
        for (path, cleaned) in [
            ("", "."),
            ("a//b/", "a/b"),
            ("./a/./b", "a/b"),
            ("a/../..", ".."),
            ("../../a/..", "../.."),
            ("/..", "/"),
            ("/a/../../b", "/b"),
            ("!a/", "!a"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
        for (path, cleaned) in [
            ("../../etc", "etc"),
            ("/a/b", "a/b"),
            (".", ""),
            ("a/..", ""),
        ] {
            assert_eq!(clean_within(path), cleaned, "{path}");
        }
    }

    #[test]
    fn globs_match_as_in_go() {
        for (pattern, name, matches) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[x\\-]", "-", true),
            ("[a-b-c]", "", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("a", "", false),
        ] {
            let found = Glob::parse(pattern).is_ok_and(|glob| glob.matches(name));
            assert_eq!(found, matches, "{pattern} {name}");
        }
        for bad in [
            "[]a]", "[-]", "[x-]", "[-x]", "\\", "[", "[^", "[^bc", "a[", "[a-b-c]", "a[",
        ] {
            assert_eq!(Glob::parse(bad), Err(BadPattern), "{bad}");
        }
    }
}
