//! The small forms that values of flags have: booleans, sizes, and comma-separated fields with quotes.

/// A boolean as Go's `strconv.ParseBool` takes it, which is what BuildKit and buildx read them with.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A size in bytes: a number, perhaps with a fraction, and b, k, m, g, t or p (powers of 1024), also as kb or KiB.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let unit = unit.strip_suffix('i').unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let size = number * 1024_f64.powi(power);
    (size.is_finite() && size < 2_f64.powi(63)).then_some(size as u64)
}

/// The fields of one line of comma-separated values: a field in double quotes may have commas, and doubled quotes, in it. None if the
/// quotes are wrong.
pub(super) fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return None;
            }
            fields.push(rest[..end].to_owned());
            match rest.get(end + 1..) {
                Some(more) => rest = more,
                None => return Some(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut characters = quoted.char_indices().peekable();
        let end = loop {
            match characters.next()? {
                (_, '"') if characters.next_if(|&(_, c)| c == '"').is_some() => field.push('"'),
                (at, '"') => break at + 1,
                (_, c) => field.push(c),
            }
        };
        fields.push(field);
        match quoted[end..].strip_prefix(',') {
            Some(more) => rest = more,
            None if quoted[end..].is_empty() => return Some(fields),
            None => return None,
        }
    }
}

/// Fields as one line, quoted where they must be.
pub(super) fn line<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let written = fields.into_iter().map(|(key, value)| {
        let field = format!("{key}={value}");
        match field.contains([',', '"', '\n', '\r']) || field.starts_with(' ') {
            true => format!("\"{}\"", field.replace('"', "\"\"")),
            false => field,
        }
    });
    written.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_be_quoted() {
        for (line, expect) in [
            ("a", Some(&["a"][..])),
            ("", Some(&[""])),
            ("type=local,dest=x", Some(&["type=local", "dest=x"])),
            (r#"type=x,"a=1,2",b"#, Some(&["type=x", "a=1,2", "b"])),
            (r#""a=""q""""#, Some(&[r#"a="q""#])),
            ("a,", Some(&["a", ""])),
            (r#"a"b"#, None),
            (r#""a"#, None),
            (r#""a"b"#, None),
            (r#""ä,ö",ü"#, Some(&["ä,ö", "ü"])),
        ] {
            let read = fields(line);
            let expect = expect.map(|e| e.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
            assert_eq!(read, expect, "{line}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written = line([("type", "sbom"), ("a", "1,2"), ("b", "\"")]);
        assert_eq!(
            fields(&written),
            Some(vec!["type=sbom".into(), "a=1,2".into(), "b=\"".into()])
        );
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, expect) in [
            ("64", Some(64)),
            ("1k", Some(1024)),
            ("1.5KiB", Some(1536)),
            ("64m", Some(64 << 20)),
            ("2 GB", Some(2 << 30)),
            ("x", None),
            ("1x", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expect, "{text}");
        }
    }
}
