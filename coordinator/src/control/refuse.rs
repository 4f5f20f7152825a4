//! What builds may not reach: the farm's own stage registry, where results of all builds are.
//!
//! Engines get credentials for it once a build has a plan, and for as long as it lives. So whatever an engine resolves by itself is looked
//! through before it gets there: definitions, what frontends are told, cache imports, and the rules by which sources are exchanged.

use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::{
    MatchType, Policy, PolicyAction, Rule,
};
use bollard_buildkit_proto::{moby::buildkit::v1::CacheOptionsEntry, pb};
use croft_planner::{RefusedSource, refused_sources};
use oci_client::Reference;
use prost::Message as _;

use super::Control;
use super::build::Request;
use super::failure::{Failure, Result, decode};

impl Control {
    /// Looks through a solve, and adds to its source policy that results may travel.
    pub(super) fn admit_request(&self, mut request: Request) -> Result<Request> {
        if let Some(image) = request.outputs.image() {
            self.refuse_output(&image.references)?;
        }
        if !request.source_policy.is_empty() {
            let policy = decode("the source policy", &request.source_policy)?;
            self.refuse_policy(&policy)?;
            request.source_policy = self.stages.exempt(policy).encode_to_vec();
        }
        for bytes in &request.cache_imports {
            self.refuse_cache(&decode("a cache import", bytes)?)?;
        }
        Ok(request)
    }

    /// Looks through a gateway's solve.
    pub(super) fn refuse_gateway_solve(&self, request: &gateway::SolveRequest) -> Result<()> {
        for definition in request
            .definition
            .iter()
            .chain(request.frontend_inputs.values())
        {
            self.refuse_definition(definition)?;
        }
        for (key, value) in &request.frontend_opt {
            match key.as_str() {
                // What follows a space are the frontend's own arguments.
                "source" | "build-arg:BUILDKIT_SYNTAX" => {
                    self.refuse_image(value.split(' ').next().unwrap_or_default())?;
                }
                key if key.starts_with("context:") => self.refuse_source(value)?,
                _ => {}
            }
        }
        for import in &request.cache_imports {
            self.refuse_cache(&CacheOptionsEntry {
                r#type: import.r#type.clone(),
                attrs: import.attrs.clone(),
            })?;
        }
        request
            .source_policies
            .iter()
            .try_for_each(|policy| self.refuse_policy(policy))
    }

    /// Looks through a definition.
    pub(super) fn refuse_definition(&self, definition: &pb::Definition) -> Result<()> {
        match refused_sources(definition, self.stages.host()) {
            None => Ok(()),
            Some(RefusedSource::Named { identifier, .. }) => Err(refused(&identifier)),
            Some(RefusedSource::Nested { op }) => Err(Failure::invalid(format!(
                "op {op} is a build within the build, which this farm does not run: what it would need is known too late"
            ))),
            Some(RefusedSource::Unreadable { op }) => {
                Err(Failure::invalid(format!("op {op} can't be decoded")))
            }
        }
    }

    /// Looks at an image's reference.
    pub fn refuse_image(&self, reference: &str) -> Result<()> {
        self.refuse_source(&format!("docker-image://{reference}"))
    }

    /// Looks at a source's identifier.
    pub fn refuse_source(&self, identifier: &str) -> Result<()> {
        match croft_planner::is_on(identifier, self.stages.host()) {
            false => Ok(()),
            true => Err(refused(identifier)),
        }
    }

    fn refuse_cache(&self, import: &CacheOptionsEntry) -> Result<()> {
        import
            .attrs
            .get("ref")
            .map_or(Ok(()), |reference| self.refuse_image(reference))
    }

    fn refuse_policy(&self, policy: &Policy) -> Result<()> {
        for rule in &policy.rules {
            match destination(rule) {
                Destination::None => {}
                Destination::Known(identifier) => self.refuse_source(identifier)?,
                Destination::Open(identifier) => {
                    return Err(Failure::invalid(format!(
                        "the source policy's conversion to {identifier:?} can't be checked: write out its scheme and host, as docker-image://registry.example.com/$1"
                    )));
                }
            }
        }
        Ok(())
    }

    fn refuse_output(&self, references: &[Reference]) -> Result<()> {
        let own = self.stages.host();
        for reference in references {
            if croft_planner::is_on(&format!("docker-image://{}", reference.whole()), own) {
                return Err(Failure::invalid(format!(
                    "{} is in the farm's own stage registry: push to another one",
                    reference.whole()
                )));
            }
        }
        Ok(())
    }
}

fn refused(identifier: &str) -> Failure {
    Failure::invalid(format!(
        "{identifier} is in the farm's own stage registry, which builds may not read: use an image from another registry"
    ))
}

/// Where a rule leads a source to.
#[derive(Debug, PartialEq, Eq)]
enum Destination<'a> {
    /// It changes none.
    None,
    /// To this identifier, as far as its host goes.
    Known(&'a str),
    /// That depends on the source.
    Open(&'a str),
}

/// By BuildKit's rules (`sourcepolicy/mutate.go`): wildcards put `$1` in, and a regular expression replaces what it matches and nothing else.
fn destination(rule: &Rule) -> Destination<'_> {
    if rule.action() != PolicyAction::Convert {
        return Destination::None;
    }
    let selector = rule.selector.as_ref();
    let pattern = selector.map_or("", |selector| selector.identifier.as_str());
    let update = rule
        .updates
        .as_ref()
        .map_or("", |updates| updates.identifier.as_str());
    let identifier = match update {
        "" => pattern,
        update => update,
    };
    let whole = match selector.map(|selector| selector.match_type()) {
        Some(MatchType::Exact) => true,
        Some(MatchType::Wildcard) | None => !identifier.contains('$'),
        Some(MatchType::Regex) => false,
    };
    let names_host = || {
        let (scheme, rest) = identifier.split_once("://")?;
        let (host, _) = rest.split_once('/')?;
        Some(!scheme.contains('$') && !host.contains('$'))
    };
    match whole || names_host().unwrap_or(false) {
        true => Destination::Known(identifier),
        false => Destination::Open(identifier),
    }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::{Selector, Update};

    use super::*;

    fn rule(matching: MatchType, pattern: &str, update: &str) -> Rule {
        Rule {
            action: PolicyAction::Convert.into(),
            selector: Some(Selector {
                identifier: pattern.into(),
                match_type: matching.into(),
                ..Selector::default()
            }),
            updates: Some(Update {
                identifier: update.into(),
                ..Update::default()
            }),
        }
    }

    #[test]
    fn a_conversion_shows_which_host_it_leads_to_or_is_open() {
        use Destination::{Known, Open};
        use MatchType::{Exact, Regex, Wildcard};
        for (matching, update, expect) in [
            (Exact, "docker-image://a", Known("docker-image://a")),
            (Wildcard, "docker-image://a", Known("docker-image://a")),
            (
                Wildcard,
                "docker-image://a.b/$1",
                Known("docker-image://a.b/$1"),
            ),
            (Wildcard, "docker-image://$1", Open("docker-image://$1")),
            (Wildcard, "docker-image://$1/x", Open("docker-image://$1/x")),
            (Wildcard, "$1://a.b/x", Open("$1://a.b/x")),
            (
                Regex,
                "docker-image://a.b/$1",
                Known("docker-image://a.b/$1"),
            ),
            // The rest of the source would go on right behind it, or it behind the source's beginning.
            (Regex, "docker-image://a.b", Open("docker-image://a.b")),
            (Regex, "a.b", Open("a.b")),
        ] {
            let rule = rule(matching, "x", update);
            assert_eq!(destination(&rule), expect, "{matching:?} {update}");
        }
        assert_eq!(destination(&rule(Regex, "a.b", "")), Open("a.b"));
    }

    #[test]
    fn only_conversions_lead_anywhere() {
        let mut rule = rule(MatchType::Regex, ".*", "");
        rule.action = PolicyAction::Deny.into();
        assert_eq!(destination(&rule), Destination::None);
    }
}
