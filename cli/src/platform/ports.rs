//! Which ports the platform listens on: the usual ones where they are free, others where they are not.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, Result, bail};

/// Ports are sought here: below the range from which systems take the local ports of outgoing connections (32768 and up on Linux,
/// 49152 and up elsewhere), so that a port is still free when its server is started again.
const RANGE: std::ops::Range<u16> = 12_000..32_000;
/// Tries before the search gives up.
const TRIES_MAX: usize = 500;

/// Which port a server shall take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one, or an error.
    Exactly(u16),
    /// This one where it is free, else any.
    Preferably(u16),
    /// Any free one.
    Any,
}

/// A port kept free of others until the server that is meant for it starts.
#[derive(Debug)]
pub struct Reserved {
    /// The port.
    pub port: u16,
    /// Whether it is another than the preferred one.
    pub is_second_choice: bool,
    socket: TcpListener,
}

impl Reserved {
    /// The socket that listens there already.
    pub fn into_socket(self) -> TcpListener {
        self.socket
    }
}

impl Port {
    /// Picks the port and holds it until the answer is dropped.
    ///
    /// # Errors
    /// When the exact port is taken, or none is free.
    pub fn reserve(self) -> Result<Reserved> {
        let is_second_choice = match self {
            Self::Exactly(port) | Self::Preferably(port) if is_free(port) => {
                let socket = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
                return Ok(Reserved { port, is_second_choice: false, socket });
            }
            Self::Exactly(port) => bail!("port {port} is taken; end what listens there or choose another --port-base"),
            Self::Preferably(_) => true,
            Self::Any => false,
        };
        // A child that another thread has just started holds what we tried a moment longer: the next port will do.
        for _ in 0..TRIES_MAX {
            let port = any()?;
            if let Ok(socket) = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
                return Ok(Reserved { port, is_second_choice, socket });
            }
        }
        bail!("no free port between {} and {}", RANGE.start, RANGE.end)
    }
}

/// A free port on the loopback interface, not handed out twice in a row.
///
/// # Errors
/// When none is found.
pub fn any() -> Result<u16> {
    for _ in 0..TRIES_MAX {
        let random = u16::from_le_bytes(super::secrets::random::<2>()?);
        let port = RANGE.start + random % (RANGE.end - RANGE.start);
        if is_free(port) {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", RANGE.start, RANGE.end)
}

/// Whether nobody listens there on the loopback interface, nor on all interfaces.
pub fn is_free(port: u16) -> bool {
    [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED].into_iter().all(|address| TcpListener::bind((address, port)).is_ok())
}

/// A listening socket to hand down.
///
/// # Errors
/// When the address is taken.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("listening on {address}"))
}
