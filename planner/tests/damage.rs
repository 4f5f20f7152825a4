//! Real definitions, damaged at random: there is a plan or an error, never a panic.

mod support;

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb;
use croft_planner::{Binding, OpDigest, PlanInput, plan, refused_sources};
use proptest::prelude::*;
use prost::Message;
use support::{options, shape, shape_names, target};

/// What can happen to a definition on its way.
#[derive(Clone, Debug)]
enum Damage {
    Flip {
        op: prop::sample::Index,
        byte: prop::sample::Index,
        bit: u8,
    },
    Cut {
        op: prop::sample::Index,
        at: prop::sample::Index,
    },
    Drop {
        op: prop::sample::Index,
    },
    Repeat {
        op: prop::sample::Index,
    },
    Swap {
        a: prop::sample::Index,
        b: prop::sample::Index,
    },
    Garbage {
        bytes: Vec<u8>,
    },
    Forget,
}

fn damage() -> impl Strategy<Value = Damage> {
    let any = any::<prop::sample::Index>;
    prop_oneof![
        6 => (any(), any(), 0u8..8).prop_map(|(op, byte, bit)| Damage::Flip { op, byte, bit }),
        2 => (any(), any()).prop_map(|(op, at)| Damage::Cut { op, at }),
        1 => any().prop_map(|op| Damage::Drop { op }),
        1 => any().prop_map(|op| Damage::Repeat { op }),
        1 => (any(), any()).prop_map(|(a, b)| Damage::Swap { a, b }),
        1 => prop::collection::vec(proptest::prelude::any::<u8>(), 0..40).prop_map(|bytes| Damage::Garbage { bytes }),
        1 => Just(Damage::Forget),
    ]
}

impl Damage {
    fn befall(&self, definition: &mut pb::Definition) {
        let count = definition.def.len();
        if count == 0 {
            return;
        }
        match self {
            Self::Flip { op, byte, bit } => {
                let op = &mut definition.def[op.index(count)];
                if !op.is_empty() {
                    let byte = byte.index(op.len());
                    op[byte] ^= 1 << bit;
                }
            }
            Self::Cut { op, at } => {
                let op = &mut definition.def[op.index(count)];
                let end = at.index(op.len() + 1);
                op.truncate(end);
            }
            Self::Drop { op } => drop(definition.def.remove(op.index(count))),
            Self::Repeat { op } => definition.def.push(definition.def[op.index(count)].clone()),
            Self::Swap { a, b } => definition.def.swap(a.index(count), b.index(count)),
            Self::Garbage { bytes } => definition.def.insert(0, bytes.clone()),
            Self::Forget => {
                definition.metadata.clear();
                if let Some(source) = &mut definition.source {
                    source.infos.clear();
                }
            }
        }
    }
}

/// Follows the change of each op's digest through the ops after it, so that the damage gets past the first check. Without effect where
/// ops were added or lost.
fn mend(definition: &mut pb::Definition, original: &pb::Definition) {
    if original.def.len() != definition.def.len() {
        return;
    }
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    for (bytes, before) in definition.def.iter_mut().zip(&original.def) {
        if let Ok(mut op) = pb::Op::decode(bytes.as_slice()) {
            for input in &mut op.inputs {
                if let Some(new) = renamed.get(&input.digest) {
                    input.digest.clone_from(new);
                }
            }
            *bytes = op.encode_to_vec();
        }
        renamed.insert(
            OpDigest::of(before).as_str().to_owned(),
            OpDigest::of(bytes).as_str().to_owned(),
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_definitions_give_a_plan_or_an_error(
        shape_number in any::<prop::sample::Index>(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), damage()), 1..4),
        mended in any::<bool>(),
    ) {
        let names = shape_names();
        let mut input = shape(&names[shape_number.index(names.len())]);
        let originals: Vec<Option<pb::Definition>> = input.targets.iter().map(|target| target.definition.clone()).collect();
        for (place, damage) in damages {
            let count = input.targets.len();
            let Some(definition) = &mut input.targets[place.index(count)].definition else { continue };
            damage.befall(definition);
        }
        for (target, original) in input.targets.iter_mut().zip(originals) {
            let (Some(definition), Some(original)) = (&mut target.definition, original) else { continue };
            refused_sources(definition, "stages.farm");
            if mended && *definition != original {
                mend(definition, &original);
            }
        }
        if let Ok(plan) = plan(input, &options()) {
            plan.advice();
            plan.describe();
            for stage in plan.stages() {
                for output in plan.outputs_of(stage) {
                    let images = stage.inputs.iter().map(|edge| {
                        let reference = format!("stages.farm/p@sha256:{:064}", edge.0);
                        (*edge, Binding::Image { reference, platform: plan.edge(*edge).unwrap().platform.clone() })
                    });
                    prop_assert!(plan.bind(output, &images.collect()).is_ok());
                }
            }
        }
    }

    #[test]
    fn bytes_from_nowhere_give_an_error(def in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..6)) {
        let definition = pb::Definition { def, ..pb::Definition::default() };
        refused_sources(&definition, "stages.farm");
        let targets = vec![target("a", "linux/arm64", Some(definition))];
        let found = plan(PlanInput { targets }, &options());
        prop_assert!(found.is_err());
    }
}
