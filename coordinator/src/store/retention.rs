//! What goes when it is old, or when there is too much of it: builds, their logs, hints, and images in the stage registry. Everything is done
//! in batches, so that nobody waits long, and each statement says itself what must stay: nothing of a build that lives.

use std::time::Duration;

use croft_planner::EdgeId;
use croft_scheduler::{BuildId, Project};

use super::convert::{bigint, millis, ubigint, uint};
use super::{Store, StoreError};

/// What is known of a push that somebody tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// It was done for a build that lives.
    Fresh,
    /// Nobody waits for it: it is told late, or once more.
    Late,
}

/// Something that an image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBlob {
    /// Its digest.
    pub digest: String,
    /// Its compressed size in bytes.
    pub bytes: u64,
}

/// An image in the stage registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageImage {
    /// The manifest's digest.
    pub digest: String,
    /// Whether what it consists of is known.
    pub described: bool,
}

/// What the stage registry holds of a project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageImages {
    /// How many images.
    pub images: u64,
    /// The bytes of all that they consist of, what they share counted once.
    pub bytes: u64,
}

impl Store {
    /// Deletes builds that ended longer ago than this, with all that belongs to them, the oldest first and at most `batch`. Returns how many.
    pub async fn build_expire(&self, keep: Duration, batch: u32) -> Result<u64, StoreError> {
        self.again(|| async {
            let done = sqlx::query!(
                "DELETE FROM builds WHERE id IN (
                     SELECT id FROM builds WHERE finished_at < now() - $1::bigint * interval '1 millisecond'
                     ORDER BY finished_at LIMIT $2)
                   AND finished_at IS NOT NULL",
                millis(keep),
                i64::from(batch),
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// Deletes builds that ended beyond the newest `keep` that did.
    pub async fn build_expire_beyond(&self, keep: u64, batch: u32) -> Result<u64, StoreError> {
        self.again(|| async {
            let done = sqlx::query!(
                "DELETE FROM builds WHERE id IN (
                     SELECT id FROM (SELECT id, finished_at FROM builds WHERE finished_at IS NOT NULL
                                     ORDER BY finished_at DESC OFFSET $1) AS old
                     ORDER BY finished_at LIMIT $2)
                   AND finished_at IS NOT NULL",
                bigint(keep),
                i64::from(batch),
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// Forgets what builds that ended a while ago were planned from: only a coordinator that takes over a build asks for it.
    pub async fn build_forget_plans(&self, batch: u32) -> Result<u64, StoreError> {
        self.again(|| async {
            let done = sqlx::query!(
                "UPDATE builds SET plan = NULL WHERE id IN (
                     SELECT id FROM builds WHERE finished_at < now() - interval '1 hour' AND plan IS NOT NULL LIMIT $1)
                   AND finished_at IS NOT NULL AND plan IS NOT NULL",
                i64::from(batch),
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// Deletes pieces of the logs of builds that ended longer ago than this, at most `batch`. Returns how many.
    pub async fn log_expire(&self, keep: Duration, batch: u32) -> Result<u64, StoreError> {
        self.again(|| async {
            let done = sqlx::query!(
                "DELETE FROM logs WHERE (build, seq) IN (
                     SELECT l.build, l.seq FROM builds AS b JOIN logs AS l ON l.build = b.id
                     WHERE b.finished_at < now() - $1::bigint * interval '1 millisecond' LIMIT $2)",
                millis(keep),
                i64::from(batch),
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// Deletes the whole logs of the builds that ended first, until what is left takes no more than so many bytes. Those of builds that live
    /// count, and stay. Returns how many pieces went.
    pub async fn log_shrink(&self, limit: u64) -> Result<u64, StoreError> {
        self.again(|| async {
            let done = sqlx::query!(
                "WITH sizes AS (
                     SELECT l.build, b.finished_at, sum(octet_length(l.data)) AS bytes
                     FROM logs AS l JOIN builds AS b ON b.id = l.build GROUP BY l.build, b.finished_at
                 ), newer AS (
                     SELECT build, finished_at, sum(bytes) OVER (ORDER BY finished_at DESC NULLS FIRST, build) AS bytes FROM sizes
                 )
                 DELETE FROM logs WHERE build IN (SELECT build FROM newer WHERE finished_at IS NOT NULL AND bytes > $1::bigint)",
                bigint(limit),
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// Deletes events of the farm itself that are older than this, at most `batch`. Those of builds go with their builds.
    pub async fn event_expire(&self, keep: Duration, batch: u32) -> Result<u64, StoreError> {
        self.again(|| async {
            let done = sqlx::query!(
                "DELETE FROM events WHERE id IN (
                     SELECT id FROM events
                     WHERE build IS NULL AND at < now() - $1::bigint * interval '1 millisecond' ORDER BY id LIMIT $2)",
                millis(keep),
                i64::from(batch),
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// Deletes hints for placement that nothing has renewed for so long, at most `batch`.
    pub async fn cache_expire(&self, keep: Duration, batch: u32) -> Result<u64, StoreError> {
        self.again(|| async {
            let done = sqlx::query!(
                "DELETE FROM agent_cache WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM agent_cache WHERE last_used < now() - $1::bigint * interval '1 millisecond' LIMIT $2))",
                millis(keep),
                i64::from(batch),
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(done.rows_affected())
        })
        .await
    }

    /// An image is in the stage registry, or has been pushed there again. That it is told late is no use of one that is known. `blobs` is
    /// empty if nobody could tell.
    pub async fn image_put(
        &self,
        project: &Project,
        digest: &str,
        blobs: &[ImageBlob],
        push: Push,
    ) -> Result<(), StoreError> {
        let (names, sizes) = columns(blobs);
        self.again(|| async {
            sqlx::query!(
                "WITH image AS (
                     INSERT INTO stage_images AS i (project, digest) VALUES ($1, $2)
                     ON CONFLICT (project, digest) DO UPDATE SET last_used = CASE WHEN $5 THEN now() ELSE i.last_used END
                     RETURNING project, digest
                 )
                 INSERT INTO stage_image_blobs (project, image, blob, bytes)
                 SELECT DISTINCT ON (b.blob) image.project, image.digest, b.blob, b.bytes
                 FROM image, UNNEST($3::text[], $4::bigint[]) AS b (blob, bytes)
                 ORDER BY b.blob
                 ON CONFLICT DO NOTHING",
                project.0,
                digest,
                &names,
                &sizes,
                push == Push::Fresh,
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(())
        })
        .await
    }

    /// Of what an image consists, for one of which nobody could tell.
    pub async fn image_describe(
        &self,
        project: &Project,
        digest: &str,
        blobs: &[ImageBlob],
    ) -> Result<(), StoreError> {
        let (names, sizes) = columns(blobs);
        self.again(|| async {
            sqlx::query!(
                "WITH image AS (
                     SELECT project, digest FROM stage_images WHERE project = $1 AND digest = $2 FOR KEY SHARE
                 )
                 INSERT INTO stage_image_blobs (project, image, blob, bytes)
                 SELECT DISTINCT ON (b.blob) image.project, image.digest, b.blob, b.bytes
                 FROM image, UNNEST($3::text[], $4::bigint[]) AS b (blob, bytes)
                 ORDER BY b.blob
                 ON CONFLICT DO NOTHING",
                project.0,
                digest,
                &names,
                &sizes,
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(())
        })
        .await
    }

    /// The image that has been unused for longest, of those that nothing has used for so long, behind the one named. None that a build has
    /// which lives or ended more lately.
    pub async fn image_unused(
        &self,
        project: &Project,
        keep: Duration,
        after: Option<&str>,
    ) -> Result<Option<StageImage>, StoreError> {
        self.again(|| async {
            let row = sqlx::query!(
                r#"SELECT i.digest, EXISTS (SELECT FROM stage_image_blobs AS c
                                            WHERE c.project = i.project AND c.image = i.digest) AS "described!"
                   FROM stage_images AS i
                   WHERE i.project = $1 AND i.last_used < now() - $2::bigint * interval '1 millisecond'
                     AND ($3::text IS NULL OR (i.last_used, i.digest) > (
                         SELECT a.last_used, a.digest FROM stage_images AS a WHERE a.project = $1 AND a.digest = $3))
                     AND NOT EXISTS (SELECT FROM outputs AS o JOIN builds AS b ON b.id = o.build
                                     WHERE o.kind = 'edge' AND o.digest = i.digest
                                       AND COALESCE(b.finished_at > now() - $2::bigint * interval '1 millisecond', true))
                   ORDER BY i.last_used, i.digest LIMIT 1"#,
                project.0,
                millis(keep),
                after,
            )
            .fetch_optional(&mut *self.connection().await?)
            .await?;
            Ok(row.map(|row| StageImage {
                digest: row.digest,
                described: row.described,
            }))
        })
        .await
    }

    /// An image is gone from the registry. Returns the bytes of what no other image consists of. Stale if it was forgotten already.
    pub async fn image_forget(&self, project: &Project, digest: &str) -> Result<u64, StoreError> {
        self.again(|| async {
            let freed = sqlx::query_scalar!(
                r#"WITH gone AS (
                     DELETE FROM stage_images WHERE project = $1 AND digest = $2 RETURNING digest
                 )
                 SELECT (SELECT COALESCE(sum(b.bytes), 0)::bigint FROM stage_image_blobs AS b
                         WHERE b.project = $1 AND b.image = gone.digest
                           AND NOT EXISTS (SELECT FROM stage_image_blobs AS o
                                           WHERE o.project = $1 AND o.blob = b.blob AND o.image <> b.image)) AS "freed!"
                 FROM gone"#,
                project.0,
                digest,
            )
            .fetch_optional(&mut *self.connection().await?)
            .await?;
            freed.map(ubigint).ok_or(StoreError::Stale { what: "the image" })
        })
        .await
    }

    /// What the registry holds of a project, as far as it is known.
    pub async fn image_total(&self, project: &Project) -> Result<StageImages, StoreError> {
        self.again(|| async {
            let row = sqlx::query!(
                r#"SELECT (SELECT count(*) FROM stage_images WHERE project = $1) AS "images!",
                          (SELECT COALESCE(sum(one.bytes), 0)::bigint
                           FROM (SELECT max(bytes) AS bytes FROM stage_image_blobs WHERE project = $1 GROUP BY blob) AS one)
                          AS "bytes!""#,
                project.0,
            )
            .fetch_one(&mut *self.connection().await?)
            .await?;
            Ok(StageImages {
                images: ubigint(row.images),
                bytes: ubigint(row.bytes),
            })
        })
        .await
    }

    /// The results of builds that live and have this image.
    pub async fn image_users(
        &self,
        project: &Project,
        digest: &str,
    ) -> Result<Vec<(BuildId, EdgeId)>, StoreError> {
        self.again(|| async {
            let rows = sqlx::query!(
                "SELECT o.build, o.number FROM outputs AS o JOIN builds AS b ON b.id = o.build
                 WHERE o.kind = 'edge' AND o.digest = $2 AND b.project = $1 AND b.finished_at IS NULL
                 ORDER BY o.build, o.number",
                project.0,
                digest,
            )
            .fetch_all(&mut *self.connection().await?)
            .await?;
            let rows = rows.into_iter();
            Ok(rows
                .map(|row| (BuildId(row.build), EdgeId(uint(row.number))))
                .collect())
        })
        .await
    }
}

fn columns(blobs: &[ImageBlob]) -> (Vec<String>, Vec<i64>) {
    let columns = blobs
        .iter()
        .map(|blob| (blob.digest.clone(), bigint(blob.bytes)));
    columns.unzip()
}
