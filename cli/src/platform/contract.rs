//! What the platform takes from the contract. Until it is generated: the names, and rights that only tell services apart by inbox.

/// The services in the order in which they are migrated and named.
pub(crate) fn services() -> Vec<&'static str> {
    vec!["identity", "auth", "audit"]
}

/// `(publish, subscribe)` of a broker user.
pub(crate) fn permissions(user: &str) -> (Vec<String>, Vec<String>) {
    (
        vec![">".into()],
        vec![
            format!("_INBOX.{user}.>"),
            "svc.>".into(),
            "$SRV.>".into(),
            "live.>".into(),
        ],
    )
}
