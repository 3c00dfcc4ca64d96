//! Whether users have permissions, and why: for people and other programs. About oneself a token is enough.

use kernel::authorization::Consistency;
use kernel::{Context, Error, FieldError, Result};
use subjects::Endpoint;
use subjects::authz::v1::explain_reply::{self, Type};
use subjects::authz::v1::{
    CHECK, CHECK_BATCH, CheckBatchReply, CheckBatchRequest, CheckReply, CheckRequest, EXPLAIN, ExplainReply,
    ExplainRequest, LIST_USER_PERMISSIONS,
};
use uuid::Uuid;

use super::parse_consistency;
use crate::Authz;
use crate::domain::{Explanation, Fault, Pattern, Step, explain as explain_policy};
use crate::error::AuthzError;
use crate::knowledge::parse_user_id;

/// Questions of one batch.
const CHECKS_MAX: usize = 1_000;

pub(crate) async fn check(authz: &Authz, cx: &Context, request: CheckRequest) -> Result<CheckReply> {
    let (user_id, permission) = parse(&request.user_id, &request.permission).map_err(AuthzError::from)?;
    let consistency = parse_consistency(&request.consistency_token)?;
    admit(authz, cx, &CHECK, &[user_id]).await?;
    let user = authz.knowledge.of_holder(cx, user_id, consistency).await?;
    if !authz.knowledge.knows(&user, &permission).await? {
        return Err(AuthzError::from(UNKNOWN).into());
    }
    Ok(CheckReply { allowed: user.allows(permission.as_str()) })
}

pub(crate) async fn check_batch(authz: &Authz, cx: &Context, request: CheckBatchRequest) -> Result<CheckBatchReply> {
    if request.checks.len() > CHECKS_MAX {
        return Err(Error::field("/checks", "too_many", "Ask at most 1,000 questions at once."));
    }
    let consistency = parse_consistency(&request.consistency_token)?;
    let mut questions = Vec::with_capacity(request.checks.len());
    for (index, check) in request.checks.iter().enumerate() {
        questions.push(parse(&check.user_id, &check.permission).map_err(|fault| at(index, fault))?);
    }
    let users: Vec<Uuid> = questions.iter().map(|(user_id, _)| *user_id).collect();
    admit(authz, cx, &CHECK_BATCH, &users).await?;

    let known = authz.knowledge.of_holders(cx, users.into_iter().collect(), consistency).await?;
    let mut results = Vec::with_capacity(questions.len());
    for (index, (user_id, permission)) in questions.iter().enumerate() {
        let user = &known[user_id];
        if !authz.knowledge.knows(user, permission).await? {
            return Err(at(index, UNKNOWN));
        }
        results.push(CheckReply { allowed: user.allows(permission.as_str()) });
        // A thousand questions may take a while: others are served in between.
        tokio::task::consume_budget().await;
    }
    Ok(CheckBatchReply { results })
}

pub(crate) async fn explain(authz: &Authz, cx: &Context, request: ExplainRequest) -> Result<ExplainReply> {
    let (user_id, permission) = parse(&request.user_id, &request.permission).map_err(AuthzError::from)?;
    let consistency = parse_consistency(&request.consistency_token)?;
    admit(authz, cx, &EXPLAIN, &[user_id]).await?;
    let user = authz.knowledge.of_user(cx, user_id, consistency).await?;
    if !authz.knowledge.knows(&user, &permission).await? {
        return Err(AuthzError::from(UNKNOWN).into());
    }
    let told = explain_policy(&user.engine, &user.holdings, &permission);
    if told.allowed != user.allows(permission.as_str()) {
        return Err(Error::internal().with_source("Explain and Check disagree"));
    }
    Ok(told.into())
}

/// Questions about others need the permission that the listing of others' permissions needs.
async fn admit(authz: &Authz, cx: &Context, endpoint: &'static Endpoint, users: &[Uuid]) -> Result<()> {
    let caller = parse_user_id(cx.user_id()?).map_err(AuthzError::from)?;
    if users.iter().all(|user| *user == caller) {
        return Ok(());
    }
    let subjects::Access::Permission(permission) = LIST_USER_PERMISSIONS.access else {
        return Err(Error::internal().with_source("ListUserPermissions has no permission"));
    };
    if authz.knowledge.of_holder(cx, caller, Consistency::Any).await?.allows(permission) {
        return Ok(());
    }
    Box::pin(authz.database.record_denied(cx, endpoint)).await?;
    Err(Error::forbidden(format!("The permission {permission} is needed to ask about others.")))
}

fn parse(user_id: &str, permission: &str) -> Result<(Uuid, Pattern), Fault> {
    Ok((parse_user_id(user_id)?, Pattern::parse(permission)?))
}

/// What nobody declares and no role names is a slip, rather than something that is denied.
const UNKNOWN: Fault = Fault::new(
    "/permission",
    "unknown_permission",
    "Name a permission that ListPermissions shows, or a pattern that covers one.",
);

fn at(index: usize, fault: Fault) -> Error {
    Error::invalid(vec![FieldError::new(format!("/checks/{index}{}", fault.pointer), fault.code, fault.detail)])
}

impl From<Explanation> for ExplainReply {
    fn from(told: Explanation) -> Self {
        let path = told.path.into_iter().map(|step| {
            let (kind, name, id) = to_wire(step);
            explain_reply::Step { r#type: kind.into(), name, id }
        });
        let near_misses = told.near_misses.into_iter().map(|near| {
            let (kind, name, id) = to_wire(near.step);
            explain_reply::NearMiss { r#type: kind.into(), name, id, detail: near.detail }
        });
        Self { allowed: told.allowed, path: path.collect(), near_misses: near_misses.collect(), hint: told.hint }
    }
}

fn to_wire(step: Step) -> (Type, String, String) {
    match step {
        Step::Group { id, name } => (Type::Group, name, id),
        Step::Role(name) => (Type::Role, name, String::new()),
        Step::Permission(name) => (Type::Permission, name, String::new()),
    }
}
