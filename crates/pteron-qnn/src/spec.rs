//! The compile spec `qnn_compile_spec`: a FlatBuffer `QnnExecuTorchOptions` without a file identifier.
//!
//! Fields are those of ExecuTorch's `qc_compiler_spec.fbs`. Releases up to 0.7 have a field more in two tables: the names of
//! the graphs before the library's path, and the folder of the skeleton library in the HTP's options. The two are told apart
//! by what stands in the fourth place: a level of logging, or the offset of a path.

use pteron_pte::flatbuf::{Builder, Field, FlatBuffer, FlatError, Table, TableFields};

use crate::soc::Soc;

/// The key of the compile spec.
pub const COMPILE_SPEC: &str = "qnn_compile_spec";

/// A compile spec that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The FlatBuffer is damaged.
    #[error("compile spec `{COMPILE_SPEC}`, field `{}` {}", .0.field, .0)]
    Flat(#[from] FlatError),
    /// A number means nothing.
    #[error("compile spec `{COMPILE_SPEC}`, field `{field}`: found {found}, expected a number of {expected}")]
    Number {
        /// The field.
        field: &'static str,
        /// The number.
        found: i64,
        /// The enumeration.
        expected: &'static str,
    },
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident, $($(#[$item_doc:meta])* $item:ident = $code:literal $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $name {
            $($(#[$item_doc])* $item = $code,)*
        }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [$name] = &[$($name::$item,)*];

            /// ExecuTorch's number.
            pub const fn code(self) -> i32 {
                self as i32
            }

            /// A name for people and command lines.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$item => $text,)*
                }
            }

            fn read(table: &Table<'_, '_>, field: Field) -> Result<$name, SpecError> {
                let code = table.scalar(field, 0i32)?;
                $name::ALL.iter().copied().find(|v| v.code() == code).ok_or(SpecError::Number {
                    field: field.name,
                    found: i64::from(code),
                    expected: stringify!($name),
                })
            }
        }
    };
}

numbered! {
    /// Which of Qualcomm's processors a payload is for.
    BackendKind,
    /// None is named.
    #[default]
    Undefined = 0 "undefined",
    /// The graphics processor.
    Gpu = 1 "gpu",
    /// The tensor processor.
    Htp = 2 "htp",
    /// The signal processor of old systems.
    Dsp = 3 "dsp",
    /// The low-power AI processor.
    Lpai = 4 "lpai",
}

numbered! {
    /// How the tensor processor is clocked while a program runs.
    PerformanceMode,
    /// As it is.
    #[default]
    Default = 0 "default",
    /// High, for long.
    SustainedHighPerformance = 1 "sustained-high-performance",
    /// Highest: ExecuTorch's choice.
    Burst = 2 "burst",
    /// High.
    HighPerformance = 3 "high-performance",
    /// Low.
    PowerSaver = 4 "power-saver",
    /// Lower.
    LowPowerSaver = 5 "low-power-saver",
    /// Less low.
    HighPowerSaver = 6 "high-power-saver",
    /// Between, towards low.
    LowBalanced = 7 "low-balanced",
    /// Between.
    Balanced = 8 "balanced",
}

numbered! {
    /// In what the tensor processor computes what is not quantized.
    Precision,
    /// Quantized graphs.
    #[default]
    Quantized = 0 "quantized",
    /// Half precision.
    Fp16 = 1 "fp16",
}

numbered! {
    /// The protection domain that the processor's side runs in.
    PdSession,
    /// For unsigned code.
    #[default]
    Unsigned = 0 "unsigned",
    /// For signed code.
    Signed = 1 "signed",
}

numbered! {
    /// What the library says while it works.
    LogLevel,
    /// Nothing.
    #[default]
    Off = 0 "off",
    /// Errors.
    Error = 1 "error",
    /// Warnings.
    Warn = 2 "warn",
    /// What it does.
    Info = 3 "info",
    /// More of it.
    Verbose = 4 "verbose",
    /// All.
    Debug = 5 "debug",
}

numbered! {
    /// What the runtime measures.
    SpecProfile,
    /// Nothing.
    #[default]
    Off = 0 "off",
    /// Whole calls.
    Basic = 1 "basic",
    /// Nodes.
    Detailed = 2 "detailed",
    /// A trace of the processor.
    Optrace = 3 "optrace",
}

impl PerformanceMode {
    /// The mode of a name, for command lines.
    pub fn by_name(name: &str) -> Option<PerformanceMode> {
        PerformanceMode::ALL.iter().copied().find(|m| m.name() == name)
    }
}

/// Options of the tensor processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HtpOptions {
    /// Bytes of the largest spill buffer over all contexts of a program, which they then share.
    pub max_sf_buf_size: i32,
    /// Clocks.
    pub performance_mode: PerformanceMode,
    /// Precision.
    pub precision: Precision,
    /// Protection domain.
    pub pd_session: PdSession,
    /// Short convolutions on the matrix unit.
    pub use_conv_hmx: bool,
    /// Compressed activations.
    pub use_dlbc: bool,
    /// ReLU folded.
    pub use_fold_relu: bool,
    /// Several contexts in one program.
    pub use_multi_contexts: bool,
    /// Weights shared by the graphs of a context.
    pub use_weight_sharing: bool,
    /// The allocator of the system's cache.
    pub use_slc_allocator: bool,
}

impl Default for HtpOptions {
    /// What ExecuTorch's `generate_htp_compiler_spec` gives.
    fn default() -> HtpOptions {
        HtpOptions {
            max_sf_buf_size: 0,
            performance_mode: PerformanceMode::Burst,
            precision: Precision::Quantized,
            pd_session: PdSession::Unsigned,
            use_conv_hmx: true,
            use_dlbc: false,
            use_fold_relu: true,
            use_multi_contexts: false,
            use_weight_sharing: false,
            use_slc_allocator: false,
        }
    }
}

/// The compile spec.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompileSpec {
    /// The system ([`Soc::model`]); 0 where none is named.
    pub soc_model: i32,
    /// Generation of its tensor processor.
    pub htp_arch: i32,
    /// Memory of its tensor processor, MiB.
    pub vtcm_mb: u32,
    /// Generation of its low-power AI processor; 0 for none.
    pub lpai_version: i32,
    /// The processor.
    pub backend: BackendKind,
    /// Options of the tensor processor.
    pub htp: Option<HtpOptions>,
    /// Names of the graphs, in files of releases up to 0.7. Not written.
    pub graph_names: Vec<String>,
    /// The backend library; empty for the usual one.
    pub library_path: String,
    /// Logging.
    pub log_level: LogLevel,
    /// Whether the graph is compiled where it runs.
    pub online_prepare: bool,
    /// Whether every tensor is an output.
    pub dump_intermediate_outputs: bool,
    /// Profiling.
    pub profile_level: SpecProfile,
    /// Whether inputs and outputs lie in memory that both sides share.
    pub shared_buffer: bool,
    /// Whether the context came from outside of ExecuTorch.
    pub is_from_context_binary: bool,
    /// Whether calls are recorded.
    pub saver: bool,
    /// Where to.
    pub saver_output_dir: String,
    /// Packages of operators of one's own that it names. Not written.
    pub op_packages: usize,
    /// Whether attention was split into heads.
    pub use_mha2sha: bool,
}

impl CompileSpec {
    /// What ExecuTorch's `generate_qnn_executorch_compiler_spec` gives for a system.
    pub fn for_soc(soc: Soc, htp: HtpOptions) -> CompileSpec {
        CompileSpec {
            soc_model: soc.model as i32,
            htp_arch: soc.arch.0 as i32,
            vtcm_mb: soc.vtcm_mb,
            lpai_version: soc.lpai.map_or(0, |v| v as i32),
            backend: BackendKind::Htp,
            htp: Some(htp),
            log_level: LogLevel::Error,
            ..CompileSpec::default()
        }
    }

    /// The system, if it is one that is known.
    pub fn soc(&self) -> Option<Soc> {
        u32::try_from(self.soc_model).ok().and_then(Soc::by_model)
    }

    /// Reads a compile spec of any release.
    ///
    /// # Errors
    /// [`SpecError`] naming the field.
    pub fn parse(bytes: &[u8]) -> Result<CompileSpec, SpecError> {
        let buffer = FlatBuffer::new(bytes)?;
        let root = buffer.root(0)?;
        // A level of logging is small; an offset of a string behind the table is not.
        let is_old = root.scalar(Field::new(3, "log_level"), 0u32)? > LogLevel::Debug.code() as u32;
        let shift = u16::from(is_old);
        let at = |slot: u16, name| Field::new(if slot < 2 { slot } else { slot + shift }, name);
        let mut spec = CompileSpec::default();
        if let Some(soc) = root.table(at(0, "soc_info"))? {
            spec.soc_model = soc.scalar(Field::new(0, "soc_model"), 0)?;
            if let Some(htp) = soc.table(Field::new(1, "htp_info"))? {
                spec.htp_arch = htp.scalar(Field::new(0, "htp_arch"), 0)?;
                spec.vtcm_mb = htp.scalar(Field::new(1, "vtcm_size_in_mb"), 0)?;
            }
            if let Some(lpai) = soc.table(Field::new(2, "lpai_info"))? {
                spec.lpai_version = lpai.scalar(Field::new(0, "lpai_hardware_version"), 0)?;
            }
        }
        if let Some(options) = root.table(at(1, "backend_options"))? {
            spec.backend = BackendKind::read(&options, Field::new(0, "backend_type"))?;
            spec.htp = options.table(Field::new(1, "htp_options"))?.map(|t| parse_htp(&t, shift)).transpose()?;
        }
        if is_old {
            spec.graph_names = graph_names(&root)?;
        }
        let string = |field| Ok::<_, FlatError>(root.string(field)?.unwrap_or_default().to_owned());
        let flag = |field| Ok::<_, FlatError>(root.scalar(field, 0u8)? != 0);
        spec.library_path = string(at(2, "library_path"))?;
        spec.log_level = LogLevel::read(&root, at(3, "log_level"))?;
        spec.online_prepare = flag(at(4, "online_prepare"))?;
        spec.dump_intermediate_outputs = flag(at(5, "dump_intermediate_outputs"))?;
        spec.profile_level = SpecProfile::read(&root, at(6, "profile_level"))?;
        spec.shared_buffer = flag(at(7, "shared_buffer"))?;
        spec.is_from_context_binary = flag(at(8, "is_from_context_binary"))?;
        spec.saver = flag(at(9, "saver"))?;
        spec.saver_output_dir = string(at(10, "saver_output_dir"))?;
        if let Some(options) = root.table(at(11, "op_package_options"))? {
            let packages = options.tables(Field::new(0, "op_package_infos"))?;
            spec.op_packages = packages.map_or(0, |p| p.len());
        }
        if !is_old {
            spec.use_mha2sha = flag(at(12, "use_mha2sha"))?;
        }
        Ok(spec)
    }

    /// Writes a compile spec as ExecuTorch 1.5 reads it. `None` if it is longer than a FlatBuffer can be.
    pub fn write(&self) -> Option<Vec<u8>> {
        let mut b = Builder::new();
        let htp_info = TableFields::new().scalar(Field::new(0, "htp_arch"), self.htp_arch, 0).scalar(
            Field::new(1, "vtcm_size_in_mb"),
            self.vtcm_mb,
            0,
        );
        let htp_info = b.table(htp_info);
        let lpai = TableFields::new().scalar(Field::new(0, "lpai_hardware_version"), self.lpai_version, 0);
        let lpai = b.table(lpai);
        let soc = TableFields::new()
            .scalar(Field::new(0, "soc_model"), self.soc_model, 0)
            .offset(Field::new(1, "htp_info"), htp_info)
            .offset(Field::new(2, "lpai_info"), lpai);
        let soc = b.table(soc);
        let htp = self.htp.as_ref().map(|h| {
            let flag = |v: bool| u8::from(v);
            let fields = TableFields::new()
                .scalar(Field::new(0, "max_sf_buf_size"), h.max_sf_buf_size, 0)
                .scalar(Field::new(1, "performance_mode"), h.performance_mode.code(), 0)
                .scalar(Field::new(2, "precision"), h.precision.code(), 0)
                .scalar(Field::new(3, "pd_session"), h.pd_session.code(), 0)
                .scalar(Field::new(4, "use_conv_hmx"), flag(h.use_conv_hmx), 0)
                .scalar(Field::new(5, "use_dlbc"), flag(h.use_dlbc), 0)
                .scalar(Field::new(6, "use_fold_relu"), flag(h.use_fold_relu), 0)
                .scalar(Field::new(7, "use_multi_contexts"), flag(h.use_multi_contexts), 0)
                .scalar(Field::new(8, "use_weight_sharing"), flag(h.use_weight_sharing), 0)
                .scalar(Field::new(9, "use_slc_allocator"), flag(h.use_slc_allocator), 0);
            b.table(fields)
        });
        let backend = TableFields::new()
            .scalar(Field::new(0, "backend_type"), self.backend.code(), 0)
            .maybe(Field::new(1, "htp_options"), htp);
        let backend = b.table(backend);
        let (library, saver_dir) = (b.string(&self.library_path), b.string(&self.saver_output_dir));
        let flag = |v: bool| u8::from(v);
        let root = TableFields::new()
            .offset(Field::new(0, "soc_info"), soc)
            .offset(Field::new(1, "backend_options"), backend)
            .offset(Field::new(2, "library_path"), library)
            .scalar(Field::new(3, "log_level"), self.log_level.code(), 0)
            .scalar(Field::new(4, "online_prepare"), flag(self.online_prepare), 0)
            .scalar(Field::new(5, "dump_intermediate_outputs"), flag(self.dump_intermediate_outputs), 0)
            .scalar(Field::new(6, "profile_level"), self.profile_level.code(), 0)
            .scalar(Field::new(7, "shared_buffer"), flag(self.shared_buffer), 0)
            .scalar(Field::new(8, "is_from_context_binary"), flag(self.is_from_context_binary), 0)
            .scalar(Field::new(9, "saver"), flag(self.saver), 0)
            .offset(Field::new(10, "saver_output_dir"), saver_dir)
            .scalar(Field::new(12, "use_mha2sha"), flag(self.use_mha2sha), 0);
        let root = b.table(root);
        b.finish_plain(root)
    }
}

fn parse_htp(t: &Table<'_, '_>, shift: u16) -> Result<HtpOptions, SpecError> {
    let flag = |slot: u16, name| Ok::<_, FlatError>(t.scalar(Field::new(slot, name), 0u8)? != 0);
    Ok(HtpOptions {
        max_sf_buf_size: t.scalar(Field::new(0, "max_sf_buf_size"), 0)?,
        performance_mode: PerformanceMode::read(t, Field::new(1, "performance_mode"))?,
        precision: Precision::read(t, Field::new(2, "precision"))?,
        pd_session: PdSession::read(t, Field::new(3, "pd_session"))?,
        use_conv_hmx: flag(4 + shift, "use_conv_hmx")?,
        use_dlbc: flag(5 + shift, "use_dlbc")?,
        use_fold_relu: flag(6 + shift, "use_fold_relu")?,
        use_multi_contexts: flag(7 + shift, "use_multi_contexts")?,
        use_weight_sharing: flag(8 + shift, "use_weight_sharing")?,
        use_slc_allocator: shift == 0 && flag(9, "use_slc_allocator")?,
    })
}

/// A string in the first of those releases, a vector of strings later.
fn graph_names(root: &Table<'_, '_>) -> Result<Vec<String>, FlatError> {
    let field = Field::new(2, "graph_name");
    // What is no vector of strings is a string: its letters, taken as offsets, lead nowhere.
    match root.strings(field) {
        Ok(names) => Ok(names.unwrap_or_default().into_iter().map(str::to_owned).collect()),
        Err(_) => Ok(root.string(field)?.into_iter().map(str::to_owned).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soc() -> Soc {
        Soc::by_name("SM8650").expect("it is in the table")
    }

    #[test]
    fn what_is_written_is_read() {
        let mut spec = CompileSpec::for_soc(soc(), HtpOptions { use_weight_sharing: true, ..HtpOptions::default() });
        spec.shared_buffer = true;
        spec.use_mha2sha = true;
        spec.library_path = "libQnnHtp.so".to_owned();
        let bytes = spec.write().expect("short");
        assert_eq!(CompileSpec::parse(&bytes), Ok(spec));
        let plain = CompileSpec::default();
        assert_eq!(CompileSpec::parse(&plain.write().expect("short")), Ok(plain));
    }

    /// As a release up to 0.7 lays it out.
    fn old(names: Option<&[&str]>) -> Vec<u8> {
        let mut b = Builder::new();
        let soc = TableFields::new().scalar(Field::new(0, "soc_model"), 57i32, 0);
        let soc = b.table(soc);
        let skeleton = b.string("");
        let htp = TableFields::new()
            .scalar(Field::new(1, "performance_mode"), 2i32, 0)
            .offset(Field::new(4, "skel_library_dir"), skeleton)
            .scalar(Field::new(5, "use_conv_hmx"), 1u8, 0)
            .scalar(Field::new(7, "use_fold_relu"), 1u8, 0);
        let htp = b.table(htp);
        let backend = TableFields::new().scalar(Field::new(0, "backend_type"), 2i32, 0);
        let backend = b.table(backend.offset(Field::new(1, "htp_options"), htp));
        let name = match names {
            None => b.string("forward"),
            Some(names) => {
                let names: Vec<_> = names.iter().map(|n| b.string(n)).collect();
                b.offsets(&names)
            }
        };
        let library = b.string("");
        let root = TableFields::new()
            .offset(Field::new(0, "soc_info"), soc)
            .offset(Field::new(1, "backend_options"), backend)
            .offset(Field::new(2, "graph_name"), name)
            .offset(Field::new(3, "library_path"), library)
            .scalar(Field::new(4, "log_level"), 2i32, 0)
            .scalar(Field::new(8, "shared_buffer"), 1u8, 0);
        let root = b.table(root);
        b.finish_plain(root).expect("short")
    }

    #[test]
    fn old_releases_are_told_apart() {
        for (bytes, names) in [(old(None), vec!["forward"]), (old(Some(&["kv", "prefill"])), vec!["kv", "prefill"])] {
            let spec = CompileSpec::parse(&bytes).expect("an old release's");
            assert_eq!((spec.soc(), spec.log_level, spec.shared_buffer), (Some(soc()), LogLevel::Warn, true));
            assert_eq!(spec.graph_names, names);
            let htp = spec.htp.expect("it is for the HTP");
            assert_eq!((htp.use_conv_hmx, htp.use_dlbc, htp.use_fold_relu), (true, false, true));
        }
    }

    #[test]
    fn numbers_that_mean_nothing_are_named() {
        let mut b = Builder::new();
        let root = b.table(TableFields::new().scalar(Field::new(6, "profile_level"), 9i32, 0));
        let bytes = b.finish_plain(root).expect("short");
        let error = CompileSpec::parse(&bytes).expect_err("9 is no level").to_string();
        assert_eq!(
            error,
            "compile spec `qnn_compile_spec`, field `profile_level`: found 9, expected a number of SpecProfile"
        );
    }
}
