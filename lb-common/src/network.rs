//! Networks of addresses: who is trusted, and from where a request may come.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// Any number of networks. Looking an address up takes as long as the logarithm of their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// As they were given.
    given: Vec<IpNet>,
    /// From and to, both within; in order, and apart from each other.
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    #[error("{0:?} is not valid; give a network, \"10.0.0.0/8\", or an address")]
    Unknown(String),
    #[error("{text:?} is an address within a network; give {network:?} or the address alone")]
    Within { text: String, network: IpNet },
}

/// `10.0.0.0/8`, `2001:db8::/32`, or an address alone.
///
/// # Errors
/// What is wrong with it, and what would be valid.
pub fn parse(text: &str) -> Result<IpNet, InvalidNetwork> {
    if let Ok(address) = IpAddr::from_str(text) {
        return Ok(IpNet::from(address));
    }
    let given = IpNet::from_str(text).map_err(|_| InvalidNetwork::Unknown(text.into()))?;
    let network = given.trunc();
    if network != given {
        return Err(InvalidNetwork::Within { text: text.into(), network });
    }
    Ok(network)
}

impl Networks {
    pub fn new(given: Vec<IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        // Those within or beside others become one with them, in order.
        for network in IpNet::aggregate(&given) {
            match network {
                IpNet::V4(network) => {
                    v4.push((network.network().into(), network.broadcast().into()));
                }
                IpNet::V6(network) => {
                    v6.push((network.network().into(), network.broadcast().into()));
                }
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        Self { given, v4, v6 }
    }

    /// An IPv4 address that is written as an IPv6 one is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => is_within(&self.v4, address.into()),
            IpAddr::V6(address) => is_within(&self.v6, address.into()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// As texts that [`parse`] reads; those of one address as that address.
    pub fn to_texts(&self) -> Vec<String> {
        self.given.iter().map(|network| text(*network)).collect()
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_texts().join(", "))
    }
}

fn text(network: IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

fn is_within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(from, _)| *from <= address);
    after > 0 && address <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        Networks::new(texts.iter().map(|text| parse(text).expect("a network")).collect())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_is_in_a_network_from_its_first_to_its_last() {
        let some = networks(&["10.1.0.0/16", "192.168.1.7", "2001:db8::/32", "::1"]);
        for (inside, outside) in [
            ("10.1.0.0", "10.0.255.255"),
            ("10.1.255.255", "10.2.0.0"),
            ("192.168.1.7", "192.168.1.8"),
            ("::ffff:10.1.2.3", "::ffff:10.2.2.3"),
            ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"),
            ("::1", "::2"),
        ] {
            assert!(some.contains(address(inside)), "{inside}");
            assert!(!some.contains(address(outside)), "{outside}");
        }
        assert!(!Networks::default().contains(address("10.1.0.0")));
    }

    /// Against each network by itself.
    #[test]
    fn networks_within_and_beside_each_other_hold_what_they_hold_by_themselves() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let given: Vec<IpNet> = (0..rng.usize(1..30))
                .map(|_| {
                    let bits = u32::from_be_bytes([10, rng.u8(..4), rng.u8(..), 0]);
                    let network = ipnet::Ipv4Net::new(bits.into(), rng.u8(8..=32));
                    IpNet::from(network.expect("no prefix is too long")).trunc()
                })
                .collect();
            let all = Networks::new(given.clone());
            for _ in 0..200 {
                let asked = IpAddr::from([10, rng.u8(..4), rng.u8(..), rng.u8(..3)]);
                let expected = given.iter().any(|network| network.contains(&asked));
                assert_eq!(all.contains(asked), expected, "seed {seed}: {asked} in {all}");
            }
        }
    }

    #[test]
    fn what_is_read_is_written_as_it_was() {
        let texts = ["10.0.0.0/8", "127.0.0.1", "2001:db8::/32", "::1", "0.0.0.0/0"];
        assert_eq!(networks(&texts).to_texts(), texts);
    }

    #[test]
    fn what_is_no_network_says_what_would_be_one() {
        let within = parse("10.0.0.7/8").expect_err("it is within").to_string();
        assert!(within.contains("10.0.0.0/8"), "{within}");
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "example.com", "10.0.0.1 "] {
            assert_eq!(parse(wrong), Err(InvalidNetwork::Unknown(wrong.into())));
        }
    }
}
