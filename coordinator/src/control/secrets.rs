//! The coordinator's own credentials for users' registries ("registry secrets"): for builds whose client has none there, or is gone.
//!
//! They serve what a build publishes, and nothing else: a build that publishes nothing below a secret's prefix never gets it.

use croft_buildkit::session::auth::{self, AuthCall, Credentials};
use croft_buildkit::session::{ClientSession, SessionResponse};
use oci_client::Reference;

use super::build::Build;
use super::publish::auth_host;
use crate::registry::{self, Login};

/// One for each prefix of repositories.
#[derive(Clone, Debug, Default)]
pub struct RegistrySecrets(Vec<Secret>);

#[derive(Clone, Debug)]
struct Secret {
    /// `host[:port][/path]`, without a slash at its end.
    prefix: String,
    login: Login,
}

impl RegistrySecrets {
    /// Adds one for the repositories below `prefix`, which is `host[:port][/path]`.
    pub fn add(&mut self, prefix: &str, user: String, password: String) {
        self.0.push(Secret {
            prefix: prefix.trim_end_matches('/').to_owned(),
            login: Login::Password { user, password },
        });
    }

    /// The one with the longest prefix that this repository is below.
    pub(super) fn of(&self, reference: &Reference) -> Option<&Login> {
        let names = [reference.registry(), registry::host(reference)]
            .map(|host| format!("{host}/{}", reference.repository()));
        let fits = |secret: &&Secret| {
            names.iter().any(|name| {
                let rest = name.strip_prefix(&secret.prefix);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
        let fitting = self.0.iter().filter(fits);
        fitting
            .max_by_key(|secret| secret.prefix.len())
            .map(|secret| &secret.login)
    }

    /// Answers an engine's question about credentials for a registry to which the build publishes, if the client has none there. Not before
    /// there is a plan: what is read until then is not what is published.
    pub async fn answer(
        &self,
        build: &Build,
        client: Option<&ClientSession>,
        call: &AuthCall,
    ) -> Option<SessionResponse> {
        let image = build.planned()?.outputs.image()?;
        let of_host = |reference: &&Reference| auth_host(registry::host(reference)) == call.host();
        let mut references = image.references.iter().filter(of_host);
        let Login::Password { user, password } = references.find_map(|one| self.of(one))? else {
            return None;
        };
        if let Some(client) = client
            && !matches!(client.credentials(call.host()).await, Ok(None))
        {
            return None;
        }
        Some(match call {
            AuthCall::Credentials(_) => auth::credentials(Credentials {
                username: user.clone(),
                secret: password.clone(),
            }),
            _ => auth::no_token_authority(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_of_the_longest_prefix_serves_whole_parts_of_a_name_only() {
        let mut secrets = RegistrySecrets::default();
        for (prefix, user) in [
            ("r.example:5000", "all"),
            ("r.example:5000/team/", "team"),
            ("docker.io/acme", "hub"),
        ] {
            secrets.add(prefix, user.to_owned(), String::new());
        }
        let user = |name: &str| match secrets.of(&registry::reference(name).unwrap()) {
            Some(Login::Password { user, .. }) => user.clone(),
            _ => String::new(),
        };
        for (name, expect) in [
            ("r.example:5000/team/app:1", "team"),
            ("r.example:5000/team:1", "team"),
            ("r.example:5000/teamwork:1", "all"),
            ("r.example/team:1", ""),
            ("acme/app", "hub"),
            ("busybox", ""),
        ] {
            assert_eq!(user(name), expect, "{name}");
        }
    }
}
