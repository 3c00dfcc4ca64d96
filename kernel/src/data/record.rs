//! What a transaction knows of who acts, and the audit records made from it. Storing and chaining them is the audit
//! service's.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use subjects::audit::v1::{Actor, Outcome, Record, Target, actor};
use subjects::free::v1::RawJson;
use subjects::subject::Token;
use uuid::Uuid;

use crate::{Clock, Context, Ids, Random, TraceContext};

/// Characters of a claimed user agent, an address or a name that are kept.
const CLAIM_CHARACTERS_MAX: usize = 512;

/// An action for the audit log that no event stands for.
#[derive(Debug)]
pub struct AuditAction<'a> {
    /// Begins with the service's name: `identity.get_user.denied`.
    pub action: &'a str,
    /// The kind of thing acted upon: `user`.
    pub target_type: &'a str,
    /// Which one; empty where there is none.
    pub target_id: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    /// A JSON value, as text; empty means `null`. No secret.
    pub details: String,
}

impl AuditAction<'_> {
    /// Whether the action can stand in a subject that `service` may publish to.
    pub(super) fn is_of(&self, service: &str) -> bool {
        let mut tokens = self.action.split('.');
        tokens.next() == Some(service) && self.action.contains('.') && tokens.all(|token| Token::parse(token).is_some())
    }
}

/// Who acts, from where, in which request: what a transaction keeps of its context.
#[derive(Debug)]
pub(super) struct Origin {
    actor: Actor,
    /// What actor and target are called; empty where nobody said.
    actor_name: String,
    target_name: String,
    address: String,
    user_agent: String,
    request_id: String,
    trace_id: String,
    traceparent: String,
    clock: Clock,
    random: Random,
}

impl Origin {
    pub(super) fn new(cx: &Context, trace: TraceContext) -> Self {
        let (kind, id) = match cx.actor() {
            crate::Actor::User(id) => (actor::Type::User, id),
            crate::Actor::Service(name) => (actor::Type::Service, name),
            crate::Actor::Anonymous => (actor::Type::Anonymous, ""),
        };
        Self {
            actor: Actor { r#type: kind.into(), id: id.to_owned() },
            actor_name: String::new(),
            target_name: String::new(),
            address: shortened(&cx.client().address),
            user_agent: shortened(&cx.client().user_agent),
            request_id: cx.request_id().to_owned(),
            trace_id: trace.trace_id_hex(),
            traceparent: trace.to_traceparent(),
            clock: cx.clock().clone(),
            random: cx.random().clone(),
        }
    }

    pub(super) fn act_as_user(&mut self, id: &str) {
        self.actor = Actor { r#type: actor::Type::User.into(), id: id.to_owned() };
    }

    pub(super) fn name_actor(&mut self, name: &str) {
        self.actor_name = shortened(name);
    }

    pub(super) fn name_target(&mut self, name: &str) {
        self.target_name = shortened(name);
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    pub(super) fn new_id(&self) -> Uuid {
        Ids::new(self.clock.clone(), self.random.clone()).new_id()
    }

    /// What every message of the outbox carries.
    pub(super) fn headers(&self, id: Uuid) -> BTreeMap<Cow<'static, str>, String> {
        BTreeMap::from([
            ("Content-Type".into(), "application/json".to_owned()),
            ("Nats-Msg-Id".into(), id.to_string()),
            ("traceparent".into(), self.traceparent.clone()),
        ])
    }
}

pub(super) fn build(origin: &Origin, id: Uuid, action: &AuditAction<'_>) -> Record {
    Record {
        id: id.to_string(),
        time: Some(origin.now().into()),
        actor: Some(origin.actor.clone()),
        target: Some(Target { r#type: action.target_type.to_owned(), id: action.target_id.to_owned() }),
        outcome: action.outcome.into(),
        ip_address: origin.address.clone(),
        user_agent: origin.user_agent.clone(),
        request_id: origin.request_id.clone(),
        trace_id: origin.trace_id.clone(),
        details: Some(RawJson { text: action.details.clone() }),
        actor_name: origin.actor_name.clone(),
        target_name: origin.target_name.clone(),
    }
}

fn shortened(claim: &str) -> String {
    claim.chars().take(CLAIM_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn action_stays_below_its_own_service() {
        let action = |action| AuditAction {
            action,
            target_type: "",
            target_id: "",
            outcome: Outcome::Denied,
            details: String::new(),
        };

        assert!(action("identity.get_user.denied").is_of("identity"));
        for wrong in ["auth.login.failed", "identity", "identity.", "identity.>", "identity.a b", "identityx.a", ""] {
            assert!(!action(wrong).is_of("identity"), "{wrong}");
        }
    }
}
