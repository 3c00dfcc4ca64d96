//! The permissions that the contract declares.

use std::collections::BTreeMap;

use subjects::authz::v1::Permission as WirePermission;
use subjects::{Access, GATEWAY, SERVICES};

use crate::domain::{Catalogue, Permission};

/// Each permission that an operation needs, and those of the gateway's tail of events, in order of name.
pub(crate) fn declared() -> Vec<WirePermission> {
    let mut permissions: BTreeMap<&str, (&str, Vec<&str>)> = BTreeMap::new();
    for endpoint in subjects::endpoints() {
        if let Access::Permission(name) = endpoint.access {
            permissions.entry(name).or_insert((endpoint.service, Vec::new())).1.push(endpoint.rpc);
        }
    }
    let of_operations = permissions.into_iter().map(|(name, (service, operations))| WirePermission {
        name: name.to_owned(),
        service: service.to_owned(),
        description: format!("Needed for {}.", operations.join(", ")),
    });
    let of_events = SERVICES.iter().filter(|service| !service.events.is_empty()).map(|service| WirePermission {
        name: format!("events.{}.read", service.name),
        service: GATEWAY.name.to_owned(),
        description: format!("Needed to watch the events of {}.", service.name),
    });
    let mut all: Vec<WirePermission> = of_operations.chain(of_events).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The same for deciding.
pub(crate) fn catalogue(declared: &[WirePermission]) -> Catalogue {
    declared.iter().filter_map(|permission| Permission::parse(&permission.name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permission_of_the_contract_is_declared_and_can_be_asked_for() {
        let declared = declared();
        assert!(declared.windows(2).all(|pair| pair[0].name < pair[1].name));
        for endpoint in subjects::endpoints() {
            if let Access::Permission(name) = endpoint.access {
                assert!(declared.iter().any(|permission| permission.name == name), "{name}");
            }
        }
        assert!(declared.iter().any(|permission| permission.name == "events.identity.read"));
        assert_eq!(catalogue(&declared).permissions().count(), declared.len());
    }
}
