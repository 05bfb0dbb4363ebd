//! The systems on chip that ExecuTorch's Qualcomm backend knows.

use std::fmt;

/// A generation of the Hexagon tensor processor: 75 for V75.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HtpArch(pub u32);

impl fmt::Display for HtpArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V{}", self.0)
    }
}

/// The first generation whose contexts can share weights between graphs.
pub const WEIGHT_SHARING: HtpArch = HtpArch(73);

/// A system on chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Soc {
    /// Its name: `SM8650`.
    pub name: &'static str,
    /// Qualcomm's number of it, as compile specs and context binaries have it.
    pub model: u32,
    /// Its tensor processor.
    pub arch: HtpArch,
    /// The tensor processor's own memory in MiB.
    pub vtcm_mb: u32,
    /// Generation of its low-power AI processor, if it has one that compile specs speak of.
    pub lpai: Option<u32>,
}

const fn soc(name: &'static str, model: u32, arch: u32, vtcm_mb: u32) -> Soc {
    Soc { name, model, arch: HtpArch(arch), vtcm_mb, lpai: None }
}

const fn with_lpai(soc: Soc, version: u32) -> Soc {
    Soc { lpai: Some(version), ..soc }
}

/// Every known system on chip (the numbers are those of ExecuTorch 1.5's table).
pub const SOCS: [Soc; 21] = [
    soc("SA8295", 39, 68, 8),
    soc("SA8797", 72, 81, 16),
    soc("SM8350", 30, 68, 4),
    soc("SM8450", 36, 69, 8),
    soc("SM8475", 42, 69, 8),
    soc("SM8550", 43, 73, 8),
    soc("SA8255", 52, 73, 8),
    soc("SC8380XP", 60, 73, 8),
    soc("SM8650", 57, 75, 8),
    soc("SM8750", 69, 79, 8),
    soc("SM8845", 97, 81, 8),
    with_lpai(soc("SM8850", 87, 81, 8), 6),
    soc("SSG2115P", 46, 73, 2),
    soc("SSG2125P", 58, 73, 2),
    soc("SXR1230P", 45, 73, 2),
    soc("SXR2230P", 53, 69, 8),
    soc("SXR2330P", 75, 79, 8),
    soc("QCS9100", 77, 73, 8),
    with_lpai(soc("SAR2230P", 95, 81, 4), 6),
    with_lpai(soc("SW6100", 96, 81, 4), 6),
    soc("QCM6490", 93, 68, 2),
];

/// The system on chip that `export_llama --qnn` compiles for by default.
pub const DEFAULT_SOC: &str = "SM8650";

impl Soc {
    /// The system of the name `name`, in upper or lower case.
    pub fn by_name(name: &str) -> Option<Soc> {
        SOCS.into_iter().find(|s| s.name.eq_ignore_ascii_case(name))
    }

    /// The system with Qualcomm's number `model`.
    pub fn by_model(model: u32) -> Option<Soc> {
        SOCS.into_iter().find(|s| s.model == model)
    }

    /// Whether its contexts can share weights between graphs.
    pub fn shares_weights(self) -> bool {
        self.arch >= WEIGHT_SHARING
    }

    /// `SM8650 (V75)`, or the bare number of an unknown model.
    pub fn describe(model: u32) -> String {
        match Soc::by_model(model) {
            Some(s) => format!("{} ({})", s.name, s.arch),
            None => format!("SoC model {model}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_models_are_unique() {
        for s in SOCS {
            assert_eq!(Soc::by_name(&s.name.to_lowercase()), Some(s));
            assert_eq!(Soc::by_model(s.model), Some(s));
        }
        assert_eq!(Soc::by_name("SM8651"), None);
        assert!(Soc::by_name(DEFAULT_SOC).is_some_and(Soc::shares_weights));
    }
}
