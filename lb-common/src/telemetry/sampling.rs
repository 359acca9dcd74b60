//! How many of very many are looked at.

use std::{fmt, str::FromStr};

/// From 0, none, to 1, all.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Ratio(f64);

// It is not NaN.
impl Eq for Ratio {}

impl Ratio {
    pub const ALL: Self = Self(1.0);

    /// Whether it is one of them.
    pub fn draw(self, rng: &mut fastrand::Rng) -> bool {
        rng.f64() < self.0
    }
}

impl Default for Ratio {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().parse().ok().filter(|number| (0.0..=1.0).contains(number));
        number.map(Self).ok_or_else(|| "give a number from 0 to 1, like 0.01".into())
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_how_many_of_many() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut count = |ratio: &str| {
            let ratio: Ratio = ratio.parse().expect("it is valid");
            (0..10_000).filter(|_| ratio.draw(&mut rng)).count()
        };
        assert_eq!((count("0"), count("1")), (0, 10_000));
        assert!((2_300..2_700).contains(&count("0.25")));
    }

    #[test]
    fn only_what_is_from_0_to_1_is_a_ratio() {
        for text in ["", "-0.1", "1.1", "NaN", "inf", "1%", "all"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
        assert_eq!("1e-6".parse::<Ratio>().map(|ratio| ratio.to_string()), Ok("0.000001".into()));
    }
}
