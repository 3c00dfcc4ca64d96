//! Message types and their proto3 JSON, made pleasant: enum values without their enum's prefix, defaults written,
//! unknown fields refused in requests and ignored everywhere else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use prost::Message;
use prost_reflect::{Kind, MessageDescriptor};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

use crate::model::{Contract, Result};

/// Types whose JSON is written by hand.
const OWN_JSON: [&str; 2] = [".trunkline.free.v1.RawJson", ".trunkline.free.v1.TextList"];

pub fn generate(mut set: FileDescriptorSet, contract: &Contract, out: &Path) -> Result<()> {
    for file in &mut set.file {
        file.enum_type.iter_mut().for_each(strip_prefix);
        file.message_type.iter_mut().for_each(strip_prefixes);
    }
    set.file.retain(|file| {
        file.package() != "trunkline.options.v1" && file.package() != "google.protobuf"
            || file.name().ends_with("timestamp.proto")
    });

    let mut strict: BTreeSet<String> =
        contract.endpoints().flat_map(|(_, endpoint)| reachable(&endpoint.request)).collect();
    // A job's arguments are refused with a pointer where they are not what they must be, as a request is.
    strict.extend(contract.services.iter().flat_map(|service| &service.jobs).flat_map(|job| reachable(&job.message)));
    let encoded = set.encode_to_vec();
    for (folder, requests) in [("requests", true), ("messages", false)] {
        let folder = out.join(folder);
        fs::create_dir_all(&folder)?;
        let mut builder = pbjson_build::Builder::new();
        builder
            .register_descriptors(&encoded)?
            .out_dir(folder)
            .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
            .emit_fields()
            .exclude(OWN_JSON);
        if requests {
            builder.build(&strict.iter().collect::<Vec<_>>())?;
        } else {
            builder.exclude(&strict).ignore_unknown_fields().build(&[".trunkline"])?;
        }
    }

    let mut config = prost_build::Config::new();
    config.out_dir(out).compile_well_known_types().extern_path(".google.protobuf.Timestamp", "crate::Timestamp");
    // Requests and replies that bear a credential must not print it.
    for (_, endpoint) in contract.endpoints().filter(|(_, endpoint)| endpoint.bears_credentials) {
        config.skip_debug([format!(".{}", endpoint.request.full_name()), format!(".{}", endpoint.reply.full_name())]);
    }
    config.skip_debug([".trunkline.wire.v1.CallContext"]);
    config.compile_fds(set)?;
    Ok(())
}

fn strip_prefixes(message: &mut DescriptorProto) {
    message.enum_type.iter_mut().for_each(strip_prefix);
    message.nested_type.iter_mut().for_each(strip_prefixes);
}

fn strip_prefix(descriptor: &mut EnumDescriptorProto) {
    let prefix = format!("{}_", crate::model::snake(descriptor.name()).to_uppercase());
    for value in &mut descriptor.value {
        if let Some(word) = value.name().strip_prefix(&prefix).map(str::to_owned) {
            value.name = Some(word);
        }
    }
}

/// Full names, with a leading dot, of a message and everything in it.
fn reachable(message: &MessageDescriptor) -> BTreeSet<String> {
    let mut names = BTreeSet::from([format!(".{}", message.full_name())]);
    for field in message.fields() {
        match field.kind() {
            Kind::Message(inner) if inner.package_name().starts_with("trunkline.") => names.extend(reachable(&inner)),
            Kind::Enum(inner) => {
                names.insert(format!(".{}", inner.full_name()));
            }
            _ => {}
        }
    }
    names
}
