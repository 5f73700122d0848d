//! Which instruction set the loops run on.

use std::fmt;

/// An instruction set that this CPU has: the value is the proof, it cannot be made otherwise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// What every CPU of the target has.
    Scalar,
    /// x86-64-v3.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64-v4.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// A loop to be compiled for every instruction set.
///
/// `run` and everything it calls per element must be `#[inline(always)]`: code that is called instead
/// of inlined would be compiled for the baseline.
pub(crate) trait Loop {
    type Output;
    fn run(self) -> Self::Output;
}

impl Isa {
    /// Every instruction set of this CPU, weakest first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only x86-64 adds to it")]
        let mut all = vec![Self(Level::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("bmi2") && has!("f16c") {
                all.push(Self(Level::Avx2));
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                    all.push(Self(Level::Avx512));
                }
            }
        }
        all
    }

    /// The baseline.
    pub fn scalar() -> Self {
        Self(Level::Scalar)
    }

    /// The strongest instruction set of this CPU, lowered by `limit` ("scalar", "avx2", "avx512"; what
    /// the environment variable MQ_ISA says). An unknown limit is ignored: it can only lower.
    pub fn best(limit: Option<&str>) -> Self {
        const NAMES: [&str; 3] = ["scalar", "avx2", "avx512"];
        let rank = |name: &str| NAMES.iter().position(|known| *known == name);
        let limit = limit.and_then(rank).unwrap_or(usize::MAX);
        let allowed = |isa: &&Self| rank(&isa.to_string()).is_some_and(|rank| rank <= limit);
        let all = Self::available();
        let found = all.iter().rev().find(allowed);
        found.copied().unwrap_or_else(Self::scalar)
    }

    /// Runs a loop, compiled for this instruction set.
    #[inline]
    pub(crate) fn run<L: Loop>(self, body: L) -> L::Output {
        match self.0 {
            Level::Scalar => body.run(),
            // SAFETY: a value with this level is only made when the CPU has the features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { run_avx2(body) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { run_avx512(body) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi2,f16c")]
fn run_avx2<L: Loop>(body: L) -> L::Output {
    body.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<L: Loop>(body: L) -> L::Output {
    body.run()
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        })
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lowers_and_never_raises() {
        assert_eq!(Isa::best(Some("scalar")), Isa::scalar());
        let best = Isa::best(None);
        assert_eq!(Isa::best(Some("avx512")), best);
        assert_eq!(Isa::best(Some("warp")), best);
        assert!(Isa::best(Some("avx2")) <= best);
        assert_ne!(Isa::best(Some("avx2")).to_string(), "avx512");
    }
}
