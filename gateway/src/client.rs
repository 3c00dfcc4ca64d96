//! Who the client is, as far as the network says. Believes a forwarding header only from a peer that the operator named;
//! everybody else's claims about addresses are ignored.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The one forwarding header that is read, and only from a trusted proxy.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Longest chain of proxies that is walked; nobody's real path is longer.
const HOPS_MAX: usize = 16;

/// A block of addresses in CIDR notation: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `address` lies in the block. An IPv4 address written as IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = || format!("`{text}` is not an address or a block like 10.0.0.0/8");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), |prefix| prefix.parse().map_err(|_| fault()))?;
        (prefix <= longest).then_some(Self { address, prefix }).ok_or_else(fault)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The client's address: the peer's own, or, where the peer is one of `trusted`, the last address of
/// `X-Forwarded-For` that is not.
pub(crate) fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address| trusted.iter().any(|network| network.contains(address));
    if trusted.is_empty() || !is_trusted(peer) {
        return peer;
    }
    let mut client = peer;
    let chain = headers.get_all(FORWARDED_FOR).iter().rev().filter_map(|value| value.to_str().ok());
    for hop in chain.flat_map(|value| value.rsplit(',')).take(HOPS_MAX) {
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// What stands for one client in a rate limit: an IPv4 address, or the /64 that one IPv6 subscriber has to himself.
pub(crate) fn rate_key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::{Network, address, rate_key};
    use http::{HeaderMap, HeaderValue};
    use std::net::IpAddr;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn forwarded(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| ("x-forwarded-for".parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn networks_parse_and_contain() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        assert!(
            network.contains(ip("10.1.2.3"))
                && network.contains(ip("::ffff:10.1.2.3"))
                && !network.contains(ip("10.2.0.1"))
        );
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains(ip("9.9.9.9")));
        assert!("2001:db8::/32".parse::<Network>().unwrap().contains(ip("2001:db8:1::1")));
        for broken in ["", "10.0.0.0/33", "10.0.0.0/-1", "::/129", "ten", "10.0.0.0/"] {
            assert!(broken.parse::<Network>().is_err(), "{broken}");
        }
    }

    #[test]
    fn strangers_claims_are_ignored() {
        assert_eq!(address(ip("192.0.2.1"), &forwarded(&["198.51.100.7"]), &[]), ip("192.0.2.1"));
        assert_eq!(address(ip("::ffff:192.0.2.1"), &forwarded(&[]), &[]), ip("192.0.2.1"));
    }

    #[test]
    fn trusted_proxy_names_the_last_address_that_is_not_its_own() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let chain = forwarded(&["203.0.113.9, 198.51.100.7", "10.0.0.2"]);

        assert_eq!(address(ip("10.0.0.1"), &chain, &trusted), ip("198.51.100.7"));
        assert_eq!(address(ip("10.0.0.1"), &forwarded(&["garbage"]), &trusted), ip("10.0.0.1"));
        assert_eq!(address(ip("192.0.2.1"), &chain, &trusted), ip("192.0.2.1"));
    }

    #[test]
    fn one_ipv6_subscriber_is_one_client() {
        assert_eq!(rate_key(ip("2001:db8:1:2::1")), rate_key(ip("2001:db8:1:2:ffff::9")));
        assert_ne!(rate_key(ip("2001:db8:1:2::1")), rate_key(ip("2001:db8:1:3::1")));
    }
}
