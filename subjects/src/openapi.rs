//! The OpenAPI 3.1 document, made when the contract is compiled.

/// The document as JSON text, with a line end behind it.
pub fn document() -> &'static str {
    include_str!(concat!(env!("OUT_DIR"), "/openapi.json"))
}
