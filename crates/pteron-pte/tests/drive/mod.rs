//! Drives the readers with the bytes of one file, as far as they go; the fuzz targets use this file as well.
#![allow(dead_code, reason = "each user takes a part")]

use pteron_pte::*;

/// Reads a program and visits everything that it offers.
pub(crate) fn pte(bytes: &[u8]) -> Result<(), String> {
    let file = PteFile::parse(bytes).map_err(|e| e.to_string())?;
    for plan in &file.program().execution_plans {
        for t in plan.values.iter().filter_map(EValue::as_tensor) {
            let _ = (t.storage(), t.numel(), t.nbytes());
            let constant = file.constant_bytes(t).unwrap();
            assert_eq!(constant.is_some(), matches!(t.storage(), Storage::Constant { .. }));
            let init = file.mutable_init_bytes(t).unwrap();
            assert_eq!(init.is_some(), matches!(t.storage(), Storage::InitialisedPlanned { .. }));
        }
        for d in &plan.delegates {
            file.delegate_bytes(d).unwrap();
        }
    }
    for n in &file.program().named_data {
        file.named_data(&n.key).unwrap();
    }
    let _ = dump::program(file.program());
    Ok(())
}

/// Reads a file of external tensors and all of its entries.
pub(crate) fn ptd(bytes: &[u8]) -> Result<(), String> {
    let file = PtdFile::parse(bytes).map_err(|e| e.to_string())?;
    for e in file.entries() {
        assert!(file.data(&e.key).is_some());
    }
    Ok(())
}

/// Reads a bundled program, and the program inside.
pub(crate) fn bpte(bytes: &[u8]) -> Result<(), String> {
    let bundle = BundledProgram::parse(bytes).map_err(|e| e.to_string())?;
    if let Err(e) = bundle.pte() {
        assert!(!e.to_string().is_empty());
    }
    Ok(())
}

/// Reads an execution record.
pub(crate) fn etdp(bytes: &[u8]) -> Result<(), String> {
    let dump = EtDump::parse(bytes).map_err(|e| e.to_string())?;
    let _ = dump.profile_events().count();
    Ok(())
}
