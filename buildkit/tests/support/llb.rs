//! Small definitions, and the Dockerfile frontend without a session.

use std::collections::{BTreeMap, HashMap};

use croft_buildkit::api::{
    frontend::{SolveRequest, SolveResponse, result::Result as Refs},
    pb::{
        Definition, FileAction, FileActionMkFile, FileOp, Input, Op, OpMetadata, SourceOp,
        file_action::Action, op,
    },
};
use prost::Message;
use sha2::{Digest, Sha256};

/// A definition of one op without inputs. BuildKit takes one without metadata for none at all.
pub fn definition(op: op::Op) -> Definition {
    let op = Op {
        op: Some(op),
        ..Default::default()
    }
    .encode_to_vec();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&op)));
    let metadata = BTreeMap::from([(digest.clone(), OpMetadata::default())]);
    let end = Op {
        inputs: vec![Input { digest, index: 0 }],
        ..Default::default()
    };
    Definition {
        def: vec![op, end.encode_to_vec()],
        metadata,
        ..Default::default()
    }
}

/// Nothing but one file.
pub fn file(path: &str, data: &str) -> Definition {
    let file = FileActionMkFile {
        path: path.into(),
        mode: 0o644,
        data: data.into(),
        timestamp: -1,
        ..Default::default()
    };
    let action = FileAction {
        input: -1,
        secondary_input: -1,
        output: 0,
        action: Some(Action::Mkfile(file)),
    };
    definition(op::Op::File(FileOp {
        actions: vec![action],
    }))
}

/// A folder of the client whose session has this id.
pub fn local(session: &str) -> Definition {
    let attrs = BTreeMap::from([
        ("local.session".into(), session.into()),
        ("local.unique".into(), session.into()),
    ]);
    definition(op::Op::Source(SourceOp {
        identifier: "local://context".into(),
        attrs,
    }))
}

/// Asks for a definition's result, lazily.
pub fn solve(definition: Definition) -> SolveRequest {
    SolveRequest {
        definition: Some(definition),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    }
}

/// Asks for a Dockerfile's result, lazily and without cache.
pub fn dockerfile(text: &str) -> SolveRequest {
    let source = file("Dockerfile", text);
    SolveRequest {
        frontend: "dockerfile.v0".into(),
        frontend_opt: HashMap::from([("no-cache".into(), String::new())]),
        frontend_inputs: HashMap::from([
            ("dockerfile".into(), source.clone()),
            ("context".into(), source),
        ]),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    }
}

/// The id of an answer's only ref.
pub fn reference(response: SolveResponse) -> String {
    match response.result.unwrap().result.unwrap() {
        Refs::Ref(reference) => reference.id,
        other => panic!("not one ref: {other:?}"),
    }
}
