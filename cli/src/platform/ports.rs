//! Which ports the platform listens on: the usual ones where they are free, others where they are not.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Ports are sought here: below the range from which systems take the local ports of outgoing connections (32768 and up on Linux,
/// 49152 and up elsewhere), so that a port is still free when its server is started again.
const RANGE: std::ops::Range<u16> = 12_000..32_000;
/// Tries before the search gives up.
const TRIES_MAX: usize = 500;
/// A child that another thread has just forked holds the sockets of our own probes until it runs its program: a port counts as
/// taken when it is so each of these times.
const PROBES: usize = 25;
const PROBE_PAUSE: Duration = Duration::from_millis(20);

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
            Self::Exactly(port) | Self::Preferably(port) => {
                if let Some(socket) = take(port) {
                    return Ok(Reserved { port, is_second_choice: false, socket });
                }
                if let Self::Exactly(_) = self {
                    bail!("port {port} is taken; end what listens there or choose another --port-base");
                }
                true
            }
            Self::Any => false,
        };
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

#[expect(clippy::disallowed_methods, reason = "nobody tells when a forked child lets go")]
fn take(port: u16) -> Option<TcpListener> {
    (0..PROBES).find_map(|probe| {
        if probe > 0 {
            std::thread::sleep(PROBE_PAUSE);
        }
        is_free(port).then(|| listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()).flatten()
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "stands for a child that lets go a moment later")]
    fn a_port_that_is_given_back_in_a_moment_is_waited_for_and_one_that_is_not_is_taken() {
        let held = Port::Any.reserve().unwrap();
        let port = held.port;
        let refused = Port::Exactly(port).reserve().unwrap_err().to_string();
        assert!(refused.contains(&format!("port {port} is taken")), "{refused}");
        assert!(Port::Preferably(port).reserve().unwrap().is_second_choice);

        let child = std::thread::spawn(move || {
            std::thread::sleep(PROBE_PAUSE);
            drop(held);
        });
        assert_eq!(Port::Exactly(port).reserve().unwrap().port, port);
        child.join().unwrap();
    }
}
