//! Publications: which tags a build is to move. The intent, with what the tag was before, is written before the first tag moves, so that
//! a coordinator that starts in between knows whose a tag is.

use std::str::FromStr;

use croft_scheduler::BuildId;
use sqlx::PgConnection;

use super::convert::read;
use super::error::changed;
use super::{Store, StoreError};

/// A tag that is to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPublication {
    /// Registry and repository, as the client wrote it.
    pub repository: String,
    /// `None`: published by digest alone.
    pub tag: Option<String>,
    /// What the tag is to be: the digest of an index or manifest that is there already.
    pub digest: String,
    /// What the tag is now; `None`: there is none.
    pub previous: Option<String>,
}

/// How far a publication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublicationState {
    /// It is to be made.
    Intended,
    /// It was made.
    Published,
    /// It was not and won't be: somebody else moved the tag, or the registry refused.
    Left,
}

impl PublicationState {
    /// The word for it, in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            PublicationState::Intended => "intended",
            PublicationState::Published => "published",
            PublicationState::Left => "left",
        }
    }
}

impl FromStr for PublicationState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [
            PublicationState::Intended,
            PublicationState::Published,
            PublicationState::Left,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| format!("{text:?} is no state of a publication"))
    }
}

/// A publication as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationRow {
    /// What was asked for.
    pub publication: NewPublication,
    /// How far it is.
    pub state: PublicationState,
    /// Why it was left.
    pub error: Option<String>,
}

impl Store {
    /// Writes down what a publishing build is about to do. Stale if the build isn't publishing.
    pub async fn publication_intend(
        &self,
        build: BuildId,
        publications: &[NewPublication],
    ) -> Result<(), StoreError> {
        self.again(|| async {
        let mut tx = self.begin().await?;
        let publishing = sqlx::query_scalar!(
            "SELECT id FROM builds WHERE id = $1 AND state = 'publishing' FOR NO KEY UPDATE",
            build.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        publishing.ok_or(StoreError::Stale { what: "the build" })?;
        let repositories: Vec<String> = publications.iter().map(|p| p.repository.clone()).collect();
        let tags: Vec<String> = publications
            .iter()
            .map(|p| p.tag.clone().unwrap_or_default())
            .collect();
        let digests: Vec<String> = publications.iter().map(|p| p.digest.clone()).collect();
        let previous: Vec<Option<String>> =
            publications.iter().map(|p| p.previous.clone()).collect();
        sqlx::query!(
            "INSERT INTO publications (build, repository, tag, digest, previous)
             SELECT $1, p.repository, p.tag, p.digest, p.previous
             FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[]) AS p (repository, tag, digest, previous)
             ON CONFLICT (build, repository, tag) DO NOTHING",
            build.0,
            &repositories,
            &tags,
            &digests,
            &previous as &[Option<String>],
        )
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }).await
    }

    /// A publication was made.
    pub async fn publication_done(
        &self,
        build: BuildId,
        repository: &str,
        tag: Option<&str>,
    ) -> Result<(), StoreError> {
        self.publication_end(build, repository, tag, PublicationState::Published, None)
            .await
    }

    /// A publication won't be made.
    pub async fn publication_leave(
        &self,
        build: BuildId,
        repository: &str,
        tag: Option<&str>,
        error: &str,
    ) -> Result<(), StoreError> {
        self.publication_end(build, repository, tag, PublicationState::Left, Some(error))
            .await
    }

    async fn publication_end(
        &self,
        build: BuildId,
        repository: &str,
        tag: Option<&str>,
        state: PublicationState,
        error: Option<&str>,
    ) -> Result<(), StoreError> {
        self.again_unless(
            || async {
                let rows = sqlx::query!(
                    "UPDATE publications SET state = $4, error = $5
             WHERE build = $1 AND repository = $2 AND tag = $3 AND state = 'intended'",
                    build.0,
                    repository,
                    tag.unwrap_or_default(),
                    state.as_str(),
                    error,
                )
                .execute(&mut *self.connection().await?)
                .await?
                .rows_affected();
                changed(rows, "the publication")
            },
            || async {
                let rows = self.publication_list(build).await?;
                let ended = rows.iter().any(|row| {
                    let known = &row.publication;
                    known.repository == repository
                        && known.tag.as_deref() == tag
                        && row.state == state
                });
                Ok(ended.then_some(()))
            },
        )
        .await
    }

    /// The publications of a build, by repository and tag.
    pub async fn publication_list(
        &self,
        build: BuildId,
    ) -> Result<Vec<PublicationRow>, StoreError> {
        self.again(async || publication_rows(&mut *self.connection().await?, build).await)
            .await
    }
}

pub(super) async fn publication_rows(
    connection: &mut PgConnection,
    build: BuildId,
) -> Result<Vec<PublicationRow>, StoreError> {
    let rows = sqlx::query!(
        "SELECT repository, tag, digest, previous, state, error FROM publications
         WHERE build = $1 ORDER BY repository, tag",
        build.0,
    )
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|row| {
        Ok(PublicationRow {
            publication: NewPublication {
                repository: row.repository,
                tag: (!row.tag.is_empty()).then_some(row.tag),
                digest: row.digest,
                previous: row.previous,
            },
            state: read("publications.state", &row.state)?,
            error: row.error,
        })
    });
    rows.collect()
}
