//! Where the gateway listens: on sockets that were handed down, so that a restart loses no connection, or on an address
//! of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kernel::{InheritedSockets, StartError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};

use crate::connections::Listener;

/// Connections that may wait to be accepted; Linux cuts it to `net.core.somaxconn`, 4,096 by default.
const BACKLOG: u32 = 1_024;

/// Descriptors for anything but connections: broker, logs, admin port.
const DESCRIPTORS_RESERVED: u64 = 128;

/// The sockets named `own` and `public` (which other gateways listen on too); without them one at `address`.
pub(crate) fn listeners(sockets: &InheritedSockets, address: SocketAddr) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    for (name, shared) in [("own", false), ("public", true)] {
        if let Some(socket) = sockets.take(name) {
            let socket = TcpListener::from_std(socket)
                .map_err(|error| StartError::new(format!("the socket `{name}` cannot be used")).with_source(error))?;
            listeners.push(Listener { socket, shared });
        }
    }
    if listeners.is_empty() {
        let socket = bind(address)
            .map_err(|error| StartError::new(format!("{address} cannot be listened on")).with_source(error))?;
        listeners.push(Listener { socket, shared: false });
    }
    Ok(listeners)
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // A restart need not wait for connections of the process before.
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Where clients on this machine reach the first of `listeners`.
pub(crate) fn url(listeners: &[Listener]) -> Option<String> {
    let mut address = listeners.first()?.socket.local_addr().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    Some(format!("http://{address}"))
}

/// Raises the number of descriptors that the process may hold, as far as it is allowed to, so that `connections` fit.
pub(crate) fn allow_descriptors(connections: u32) {
    let needed = u64::from(connections) + DESCRIPTORS_RESERVED;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    let raised = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    let outcome = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum });
    if outcome.is_err() || raised < needed {
        tracing::warn!(needed, "The process may not hold as many descriptors as connections are allowed.");
    }
}
