//! Definitions as BuildKit can read them.
//!
//! prost leaves the value of a map's entry out where it is empty. BuildKit's decoder makes nil of that, and clients as well as engines crash
//! when they look into the locations of a vertex that has none, or into a reference without a result.

use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use bollard_buildkit_proto::pb;

/// Leaves out the vertices that have no location.
pub fn definition(of: &mut pb::Definition) {
    let Some(source) = &mut of.source else {
        return;
    };
    source
        .locations
        .retain(|_, locations| !locations.locations.is_empty());
    for info in &mut source.infos {
        info.definition.as_mut().map(definition);
    }
}

/// Does so in all that a gateway's solve carries.
pub fn request(of: &mut gateway::SolveRequest) {
    of.definition.as_mut().map(definition);
    of.frontend_inputs.values_mut().for_each(definition);
}

/// Does so in all that a gateway's solve gave. Empty images get a definition with nothing in it.
pub fn result(of: &mut gateway::Result) {
    use gateway::result::Result as R;
    let references: Vec<_> = match &mut of.result {
        Some(R::Ref(reference)) => vec![reference],
        Some(R::Refs(map)) => map.refs.values_mut().collect(),
        Some(R::RefDeprecated(_) | R::RefsDeprecated(_)) | None => Vec::new(),
    };
    for reference in references {
        definition(reference.def.get_or_insert_default());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use prost::Message as _;

    use super::*;

    fn with_locations(locations: pb::Locations) -> pb::Definition {
        pb::Definition {
            source: Some(pb::Source {
                locations: BTreeMap::from([("sha256:1".to_owned(), locations)]),
                infos: Vec::new(),
            }),
            ..pb::Definition::default()
        }
    }

    #[test]
    fn vertices_without_a_location_are_left_out_at_every_depth() {
        let located = pb::Locations {
            locations: vec![pb::Location::default()],
        };
        let mut outer = with_locations(located.clone());
        let nested = pb::SourceInfo {
            definition: Some(with_locations(pb::Locations::default())),
            ..pb::SourceInfo::default()
        };
        outer.source.as_mut().unwrap().infos.push(nested);
        let mut solve = gateway::SolveRequest {
            frontend_inputs: HashMap::from([("base".to_owned(), outer)]),
            ..gateway::SolveRequest::default()
        };
        request(&mut solve);
        let source = solve.frontend_inputs["base"].source.as_ref().unwrap();
        assert_eq!(source.locations["sha256:1"], located);
        let nested = source.infos[0].definition.as_ref().unwrap();
        assert!(nested.source.as_ref().unwrap().locations.is_empty());
    }

    #[test]
    fn an_empty_image_of_several_is_written_as_a_reference() {
        let mut answer = gateway::Result {
            result: Some(gateway::result::Result::Refs(gateway::RefMap {
                refs: HashMap::from([("linux/amd64".to_owned(), gateway::Ref::default())]),
            })),
            ..gateway::Result::default()
        };
        result(&mut answer);
        let Some(gateway::result::Result::Refs(map)) = answer.result else {
            panic!("another result");
        };
        assert_ne!(map.refs["linux/amd64"].encoded_len(), 0);
    }
}
