//! Who is still to be told of a change that concerned many.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::{GroupId, UserId};

/// Notes down everybody who is in the group now, and says how many those are.
#[tracing::instrument(name = "storage.notice.insert_recipients", skip_all)]
pub(crate) async fn insert_recipients(
    connection: &mut PgConnection,
    notice_id: Uuid,
    group_id: GroupId,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "INSERT INTO identity.notice_recipients (notice_id, user_id)
         SELECT $1, user_id FROM identity.group_members WHERE group_id = $2",
        notice_id,
        group_id.0,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Strikes off at most `limit` of them, and gives these; none when nobody is left.
#[tracing::instrument(name = "storage.notice.take_recipients", skip_all)]
pub(crate) async fn take_recipients(
    connection: &mut PgConnection,
    notice_id: Uuid,
    limit: i64,
) -> Result<Vec<UserId>, sqlx::Error> {
    // An array, since a join with a table whose size is not known yet reads all of it each time.
    let taken = sqlx::query_scalar!(
        r#"
        DELETE FROM identity.notice_recipients
        WHERE notice_id = $1 AND user_id = ANY (ARRAY(
            SELECT user_id FROM identity.notice_recipients WHERE notice_id = $1
            ORDER BY user_id LIMIT $2 FOR UPDATE
        ))
        RETURNING user_id
        "#,
        notice_id,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(taken.into_iter().map(UserId).collect())
}
