//! Protobuf on the wire: just enough to change an op and leave every byte that isn't meant as it was, fields of newer BuildKits
//! included. What the fields mean is for others.

use std::ops::Range;

use prost::encoding::{encode_varint, encoded_len_varint};

use crate::OpDigest;

/// Bytes that are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid protobuf")]
pub(crate) struct WireError;

const VARINT: u64 = 0;
const LEN: u64 = 2;

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub number: u64,
    /// The whole field: tag, length, content.
    pub whole: &'a [u8],
    /// The content of a length-delimited field; empty for others.
    pub content: &'a [u8],
}

/// The fields of a message in their order.
pub(crate) fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields { bytes, at: 0 }
}

pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(WireError)?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                return Err(WireError);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError)
    }

    fn skip(&mut self, count: u64) -> Result<Range<usize>, WireError> {
        let start = self.at;
        let end = usize::try_from(count)
            .ok()
            .and_then(|count| start.checked_add(count))
            .ok_or(WireError)?;
        if end > self.bytes.len() {
            return Err(WireError);
        }
        self.at = end;
        Ok(start..end)
    }

    fn field(&mut self) -> Result<Field<'a>, WireError> {
        let start = self.at;
        let tag = self.varint()?;
        let content = match tag & 7 {
            VARINT => {
                self.varint()?;
                0..0
            }
            1 => self.skip(8).map(|_| 0..0)?,
            LEN => {
                let length = self.varint()?;
                self.skip(length)?
            }
            5 => self.skip(4).map(|_| 0..0)?,
            _ => return Err(WireError),
        };
        match tag >> 3 {
            0 => Err(WireError),
            number => Ok(Field {
                number,
                whole: &self.bytes[start..self.at],
                content: &self.bytes[content],
            }),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

/// How many fields an op and the body of its kind (an exec's mounts, a file op's actions) have. Decoding makes a structure of each.
pub(crate) fn count_fields(op: &[u8]) -> Result<usize, WireError> {
    const BODIES: std::ops::RangeInclusive<u64> = 2..=7;
    let mut count = 0;
    for field in fields(op) {
        let field = field?;
        count += 1;
        if BODIES.contains(&field.number) {
            for inner in fields(field.content) {
                inner?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// The op with its inputs pointed at `inputs`, in order; all else byte by byte as it was.
pub(crate) fn with_inputs<'a>(
    op: &[u8],
    inputs: impl IntoIterator<Item = (&'a OpDigest, u32)>,
) -> Result<Vec<u8>, WireError> {
    const INPUTS: u64 = 1;
    let mut inputs = inputs.into_iter();
    let mut patched = Vec::with_capacity(op.len());
    for field in fields(op) {
        let field = field?;
        if field.number != INPUTS {
            patched.extend_from_slice(field.whole);
            continue;
        }
        let (digest, index) = inputs.next().ok_or(WireError)?;
        let mut input = Vec::with_capacity(field.content.len());
        put_len(&mut input, 1, digest.as_str().as_bytes());
        if index != 0 {
            encode_varint(2 << 3 | VARINT, &mut input);
            encode_varint(u64::from(index), &mut input);
        }
        for unknown in fields(field.content) {
            let unknown = unknown?;
            if unknown.number > 2 {
                input.extend_from_slice(unknown.whole);
            }
        }
        put_len(&mut patched, INPUTS, &input);
    }
    if inputs.next().is_some() {
        return Err(WireError);
    }
    Ok(patched)
}

/// The op without its inputs.
pub(crate) fn without_inputs(op: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut body = Vec::with_capacity(op.len());
    for field in fields(op) {
        let field = field?;
        if field.number != 1 {
            body.extend_from_slice(field.whole);
        }
    }
    Ok(body)
}

/// A source op with attribute `key` set to `value`, or taken away; all else byte by byte as it was.
pub(crate) fn with_source_attr(
    op: &[u8],
    key: &str,
    value: Option<&str>,
) -> Result<Vec<u8>, WireError> {
    const SOURCE: u64 = 3;
    let mut patched = Vec::with_capacity(op.len());
    for field in fields(op) {
        let field = field?;
        if field.number == SOURCE {
            put_len(&mut patched, SOURCE, &with_attr(field.content, key, value)?);
        } else {
            patched.extend_from_slice(field.whole);
        }
    }
    Ok(patched)
}

fn with_attr(source: &[u8], key: &str, value: Option<&str>) -> Result<Vec<u8>, WireError> {
    const ATTRS: u64 = 2;
    let mut patched = Vec::with_capacity(source.len());
    for field in fields(source) {
        let field = field?;
        let is_it = field.number == ATTRS
            && fields(field.content)
                .any(|f| f.is_ok_and(|f| f.number == 1 && f.content == key.as_bytes()));
        if !is_it {
            patched.extend_from_slice(field.whole);
        } else if let Some(value) = value {
            let mut entry = Vec::new();
            put_len(&mut entry, 1, key.as_bytes());
            put_len(&mut entry, 2, value.as_bytes());
            put_len(&mut patched, ATTRS, &entry);
        }
    }
    Ok(patched)
}

fn put_len(to: &mut Vec<u8>, number: u64, content: &[u8]) {
    let length = content.len() as u64;
    to.reserve(content.len() + encoded_len_varint(length) + 1);
    encode_varint(number << 3 | LEN, to);
    encode_varint(length, to);
    to.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb;
    use prost::Message;

    use super::*;

    fn op(inputs: &[(&str, i64)]) -> pb::Op {
        pb::Op {
            inputs: inputs
                .iter()
                .map(|(digest, index)| pb::Input {
                    digest: (*digest).to_owned(),
                    index: *index,
                })
                .collect(),
            op: Some(pb::op::Op::Merge(pb::MergeOp {
                inputs: vec![pb::MergeInput { input: 0 }],
            })),
            platform: None,
            constraints: Some(pb::WorkerConstraints::default()),
        }
    }

    #[test]
    fn patched_inputs_are_what_an_encoder_would_have_written() {
        let patched = with_inputs(
            &op(&[("a", 0), ("b", 7)]).encode_to_vec(),
            [(&OpDigest::new("ccc"), 300), (&OpDigest::new("d"), 0)],
        );
        assert_eq!(
            patched.unwrap(),
            op(&[("ccc", 300), ("d", 0)]).encode_to_vec()
        );
    }

    #[test]
    fn fields_of_newer_buildkits_survive_in_op_and_input() {
        let mut input = pb::Input {
            digest: "a".into(),
            index: 1,
        }
        .encode_to_vec();
        input.extend([0x1a, 1, b'x']); // field 3
        let mut bytes = Vec::new();
        put_len(&mut bytes, 1, &input);
        bytes.extend([0x42, 2, 0x0a, 0]); // field 8, the passthrough op
        bytes.extend([0xa0, 0x06, 5]); // field 100, a varint
        let patched = with_inputs(&bytes, [(&OpDigest::new("b"), 1)]).unwrap();
        let mut expect = pb::Input {
            digest: "b".into(),
            index: 1,
        }
        .encode_to_vec();
        expect.extend([0x1a, 1, b'x']);
        let mut whole = Vec::new();
        put_len(&mut whole, 1, &expect);
        whole.extend([0x42, 2, 0x0a, 0, 0xa0, 0x06, 5]);
        assert_eq!(patched, whole);
    }

    #[test]
    fn a_wrong_number_of_inputs_is_an_error() {
        let bytes = op(&[("a", 0)]).encode_to_vec();
        let digest = OpDigest::new("b");
        assert!(with_inputs(&bytes, []).is_err());
        assert!(with_inputs(&bytes, [(&digest, 0), (&digest, 0)]).is_err());
    }

    #[test]
    fn cut_off_bytes_are_an_error() {
        let bytes = op(&[("a", 0), ("b", 7)]).encode_to_vec();
        let whole = count_fields(&bytes).unwrap();
        for end in 1..bytes.len() {
            assert!(
                count_fields(&bytes[..end]).is_ok_and(|count| count < whole)
                    || count_fields(&bytes[..end]).is_err()
            );
        }
        assert!(count_fields(&[0xff; 11]).is_err());
        assert!(
            count_fields(&[
                0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01
            ])
            .is_err()
        );
    }

    #[test]
    fn one_attribute_is_set_or_taken_away() {
        let source = |paths: Option<&str>| {
            let mut attrs = std::collections::BTreeMap::from([
                ("a".to_owned(), "1".to_owned()),
                ("z".to_owned(), "2".to_owned()),
            ]);
            attrs.extend(paths.map(|paths| ("f".to_owned(), paths.to_owned())));
            let op = pb::op::Op::Source(pb::SourceOp {
                identifier: "local://context".into(),
                attrs,
            });
            pb::Op {
                op: Some(op),
                ..pb::Op::default()
            }
            .encode_to_vec()
        };
        assert_eq!(
            with_source_attr(&source(Some("x")), "f", Some("yy")).unwrap(),
            source(Some("yy"))
        );
        assert_eq!(
            with_source_attr(&source(Some("x")), "f", None).unwrap(),
            source(None)
        );
    }
}
