//! People who use the platform: addresses that no other test has, and passwords that must never show up anywhere.

use serde_json::json;

use crate::http::Http;

/// Somebody with an account, or about to have one.
#[derive(Clone, Debug)]
pub struct Person {
    /// Unique.
    pub email: String,
    /// Unique, so that its trace in a log or a table is found for certain.
    pub password: String,
}

impl Person {
    /// Somebody new, without an account yet.
    pub fn new() -> Person {
        Person { email: format!("{}@example.org", unique()), password: format!("canary {}", unique()) }
    }

    /// Somebody who has just registered through the gateway.
    pub async fn registered(http: &Http) -> Person {
        let person = Person::new();
        http.post("/api/v1/registrations", &person.registration()).await.json(202);
        person
    }

    /// What the registration form sends.
    pub fn registration(&self) -> serde_json::Value {
        json!({ "email": self.email, "password": self.password, "displayName": "Somebody" })
    }
}

fn unique() -> String {
    #[expect(clippy::disallowed_methods, reason = "tests need names nobody else has")]
    let unique = uuid::Uuid::new_v4();
    unique.simple().to_string()
}

impl Default for Person {
    fn default() -> Self {
        Person::new()
    }
}
