//! What is generated from the contract and served or committed agrees with it.

use platform_tests::Setup;
use serde_json::Value;

#[tokio::test]
async fn the_gateway_serves_the_openapi_document_of_the_contract() {
    let platform = Setup::new().start().await;

    let served = platform.http().get("/openapi.json").await;

    assert!(served.header("content-type").starts_with("application/json"));
    let document: Value = served.json(200);
    let contracts: Value = serde_json::from_str(subjects::openapi::document()).unwrap();
    assert_eq!(document, contracts);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for endpoint in subjects::endpoints() {
        let Some(http) = &endpoint.http else { continue };
        let path = http.path_fields.iter().fold(http.path.to_owned(), |path, field| {
            let camel = field.split('_').enumerate().map(|(index, word)| match index {
                0 => word.to_owned(),
                _ => word[..1].to_uppercase() + &word[1..],
            });
            path.replace(&format!("{{{field}}}"), &format!("{{{}}}", camel.collect::<String>()))
        });
        let operation = &document["paths"][&path][http.method.as_str().to_lowercase()];
        assert!(operation["responses"][http.success.to_string()].is_object(), "{path} is described: {operation}");
    }
}

#[tokio::test]
async fn health_is_answered_by_the_gateway_and_on_every_admin_port() {
    let platform = Setup::new().start().await;

    for path in ["/livez", "/readyz"] {
        assert_eq!(platform.http().get(path).await.status, 200, "{path}");
    }
    assert_eq!(platform.http().get("/metrics").await.status, 404, "metrics are never on the public port");

    for admin in platform.admin_ports() {
        for path in ["/livez", "/readyz", "/metrics"] {
            assert_eq!(admin.get(path).await.status, 200, "{}{path}", admin.base());
        }
    }
}
