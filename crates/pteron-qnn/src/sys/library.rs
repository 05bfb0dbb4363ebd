//! The library itself: opened, its functions found by index, its calls made.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use super::types::{
    FUNCTIONS, Handle, RawApiVersion, RawBinaryInfo, RawConfig, RawInterface, RawOp, RawProfileEvent,
    RawSystemInterface, RawTensor, RawVersion, SYSTEM_FUNCTIONS,
};
use crate::host::Version;

/// Indices into the function table; newer releases append to it.
pub(super) mod slot {
    pub(in crate::sys) const BACKEND_CREATE: usize = 1;
    pub(in crate::sys) const BACKEND_API_VERSION: usize = 3;
    pub(in crate::sys) const BACKEND_BUILD_ID: usize = 4;
    pub(in crate::sys) const BACKEND_OPERATIONS: usize = 6;
    pub(in crate::sys) const BACKEND_VALIDATE: usize = 7;
    pub(in crate::sys) const BACKEND_FREE: usize = 8;
    pub(in crate::sys) const CONTEXT_CREATE: usize = 9;
    pub(in crate::sys) const CONTEXT_BINARY_SIZE: usize = 11;
    pub(in crate::sys) const CONTEXT_BINARY: usize = 12;
    pub(in crate::sys) const CONTEXT_FROM_BINARY: usize = 13;
    pub(in crate::sys) const CONTEXT_FREE: usize = 14;
    pub(in crate::sys) const GRAPH_CREATE: usize = 15;
    pub(in crate::sys) const GRAPH_ADD_NODE: usize = 18;
    pub(in crate::sys) const GRAPH_FINALIZE: usize = 19;
    pub(in crate::sys) const GRAPH_RETRIEVE: usize = 20;
    pub(in crate::sys) const GRAPH_EXECUTE: usize = 21;
    pub(in crate::sys) const TENSOR_CREATE: usize = 24;
    pub(in crate::sys) const LOG_CREATE: usize = 25;
    pub(in crate::sys) const LOG_FREE: usize = 27;
    pub(in crate::sys) const PROFILE_CREATE: usize = 28;
    pub(in crate::sys) const PROFILE_EVENTS: usize = 30;
    pub(in crate::sys) const PROFILE_SUB_EVENTS: usize = 31;
    pub(in crate::sys) const PROFILE_EVENT_DATA: usize = 32;
    pub(in crate::sys) const PROFILE_FREE: usize = 34;
    pub(in crate::sys) const DEVICE_CREATE: usize = 40;
    pub(in crate::sys) const DEVICE_FREE: usize = 43;
    pub(in crate::sys) const ERROR_MESSAGE: usize = 48;

    /// Names of the slots that every use of the library needs, for messages.
    pub(in crate::sys) const NEEDED: [(usize, &str); 19] = [
        (BACKEND_CREATE, "backendCreate"),
        (BACKEND_OPERATIONS, "backendGetSupportedOperations"),
        (BACKEND_VALIDATE, "backendValidateOpConfig"),
        (BACKEND_FREE, "backendFree"),
        (CONTEXT_CREATE, "contextCreate"),
        (CONTEXT_BINARY_SIZE, "contextGetBinarySize"),
        (CONTEXT_BINARY, "contextGetBinary"),
        (CONTEXT_FROM_BINARY, "contextCreateFromBinary"),
        (CONTEXT_FREE, "contextFree"),
        (GRAPH_CREATE, "graphCreate"),
        (GRAPH_ADD_NODE, "graphAddNode"),
        (GRAPH_FINALIZE, "graphFinalize"),
        (GRAPH_RETRIEVE, "graphRetrieve"),
        (GRAPH_EXECUTE, "graphExecute"),
        (TENSOR_CREATE, "tensorCreateGraphTensor"),
        (LOG_CREATE, "logCreate"),
        (DEVICE_CREATE, "deviceCreate"),
        (DEVICE_FREE, "deviceFree"),
        (BACKEND_BUILD_ID, "backendGetBuildId"),
    ];
}

/// A library that stays open until the process ends: QNN's cannot be closed and opened again.
struct Object(*mut c_void);

fn dl_error() -> String {
    // SAFETY: dlerror takes nothing and gives null or a NUL-terminated string of the dynamic linker.
    let text = unsafe { libc::dlerror() };
    text_of(text).unwrap_or_else(|| "no reason given".to_owned())
}

/// The longest text that is taken from the library.
const MAX_TEXT: usize = 4096;

/// The text at `p`; `None` for null.
pub(super) fn text_of(p: *const c_char) -> Option<String> {
    if p.is_null() {
        return None;
    }
    // SAFETY: the library's strings are NUL-terminated and live at least until the next call.
    let bytes = unsafe { CStr::from_ptr(p) }.to_bytes();
    Some(String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned())
}

impl Object {
    fn open(path: &Path) -> Result<Object, String> {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| "the path has a NUL".to_owned())?;
        // SAFETY: the name is NUL-terminated; what the library's initializers do is why it has a process of its own.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() { Err(format!("it cannot be opened: {}", dl_error())) } else { Ok(Object(handle)) }
    }

    fn symbol(&self, name: &CStr) -> Result<*mut c_void, String> {
        // SAFETY: the handle is open and the name is NUL-terminated.
        let p = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if p.is_null() {
            return Err(format!("it has no symbol `{}`, so it is not a QNN library", name.to_string_lossy()));
        }
        Ok(p)
    }
}

/// Calls `QnnXInterface_getProviders` and gives the first provider.
fn first_provider<T>(object: &Object, entry: &CStr) -> Result<*const T, String> {
    type GetProviders<T> = unsafe extern "C" fn(*mut *const *const T, *mut u32) -> u64;
    let symbol = object.symbol(entry)?;
    // SAFETY: QNN documents this entry point with this signature; an object pointer and a function pointer have one size.
    let get: GetProviders<T> = unsafe { std::mem::transmute::<*mut c_void, GetProviders<T>>(symbol) };
    let (mut list, mut count) = (ptr::null(), 0u32);
    // SAFETY: both are valid for writes.
    let code = unsafe { get(&raw mut list, &raw mut count) };
    if code & 0xffff != 0 || count == 0 || list.is_null() {
        return Err(format!("it gives {count} providers (code {}), expected one", code & 0xffff));
    }
    // SAFETY: the list has `count` entries, at least one.
    let first = unsafe { *list };
    if first.is_null() { Err("its provider is null".to_owned()) } else { Ok(first) }
}

fn version(v: RawVersion) -> Version {
    Version { major: v.major, minor: v.minor, patch: v.patch }
}

/// The interface of the first release whose structures are known: QNN 2.47.
const FIRST: Version = Version { major: 2, minor: 36, patch: 0 };

/// Whether a library with this interface has the structures that are known: those of [`FIRST`], to which later ones add.
fn known(core: Version) -> Result<(), String> {
    if core >= FIRST && core.major == FIRST.major {
        return Ok(());
    }
    let (major, minor) = (FIRST.major, FIRST.minor);
    Err(format!(
        "its interface is version {core}, expected {major}.{minor} or a later {major}: that of QNN 2.47 or a later release"
    ))
}

/// A backend library. One of the functions below stands for one of its calls; each gives the code of the error.
pub(super) struct Backend {
    functions: [*const c_void; FUNCTIONS],
    pub(super) provider: String,
    pub(super) backend_id: u32,
    pub(super) core: Version,
    api_backend: Version,
}

/// Calls function `$slot` with the arguments, typed by the list of types.
macro_rules! call {
    ($self:ident, $slot:expr, ($($ty:ty),*), ($($arg:expr),*)) => {{
        let f = $self.functions[$slot];
        if f.is_null() {
            NOT_SUPPORTED
        } else {
            type F = unsafe extern "C" fn($($ty),*) -> u64;
            // SAFETY: the slot's function has this signature in every release, and it is not null.
            let f = unsafe { std::mem::transmute::<*const c_void, F>(f) };
            // SAFETY: handles come from this library, and what is pointed to lives until the call returns.
            unsafe { f($($arg),*) }
        }
    }};
}

/// QNN's general code for what a library does not do.
const NOT_SUPPORTED: u64 = 1000;

impl Backend {
    /// Opens a backend library and checks that it has the functions that are called.
    pub(super) fn open(path: &Path) -> Result<Backend, String> {
        let object = Object::open(path)?;
        let raw: *const RawInterface = first_provider(&object, c"QnnInterface_getProviders")?;
        // SAFETY: every release's interface begins with these fields.
        known(version(unsafe { (&raw const (*raw).api).read() }.core))?;
        // SAFETY: the interface is static data of the library, in these releases at least as long as the slots that are looked at.
        let raw = unsafe { &*raw };
        let backend = Backend {
            functions: raw.functions,
            provider: text_of(raw.provider).unwrap_or_default(),
            backend_id: raw.backend_id,
            core: version(raw.api.core),
            api_backend: version(raw.api.backend),
        };
        for (slot, name) in slot::NEEDED {
            if backend.functions[slot].is_null() {
                return Err(format!("its interface has no function `{name}`"));
            }
        }
        Ok(backend)
    }

    /// Version of the backend's own interface.
    pub(super) fn backend_version(&self) -> Version {
        let mut v = RawApiVersion::default();
        let code = call!(self, slot::BACKEND_API_VERSION, (*mut RawApiVersion), (&raw mut v));
        if code == 0 { version(v.backend) } else { self.api_backend }
    }

    /// The release.
    pub(super) fn build(&self) -> String {
        let mut id = ptr::null();
        let code = call!(self, slot::BACKEND_BUILD_ID, (*mut *const c_char), (&raw mut id));
        if code == 0 { text_of(id).unwrap_or_default() } else { String::new() }
    }

    /// The library's words for an error.
    pub(super) fn message(&self, code: u64) -> String {
        let mut text = ptr::null();
        let got = call!(self, slot::ERROR_MESSAGE, (u64, *mut *const c_char), (code, &raw mut text));
        if got == 0 { text_of(text).unwrap_or_default() } else { String::new() }
    }

    pub(super) fn log_create(&self, level: u32, out: &mut Handle) -> u64 {
        call!(self, slot::LOG_CREATE, (*const c_void, u32, *mut Handle), (ptr::null(), level, &raw mut *out))
    }

    pub(super) fn backend_create(&self, log: Handle, out: &mut Handle) -> u64 {
        let none = ptr::null();
        call!(self, slot::BACKEND_CREATE, (Handle, *const *const RawConfig, *mut Handle), (log, none, &raw mut *out))
    }

    pub(super) fn device_create(&self, log: Handle, config: *const *const RawConfig, out: &mut Handle) -> u64 {
        call!(self, slot::DEVICE_CREATE, (Handle, *const *const RawConfig, *mut Handle), (log, config, &raw mut *out))
    }

    /// The names of the operators.
    pub(super) fn operations(&self, backend: Handle) -> Result<Vec<String>, u64> {
        // An entry is three pointers: package, operator, target.
        type Entry = [*const c_char; 3];
        let (mut count, mut list): (u32, *const Entry) = (0, ptr::null());
        let code = call!(
            self,
            slot::BACKEND_OPERATIONS,
            (Handle, *mut u32, *mut *const Entry),
            (backend, &raw mut count, &raw mut list)
        );
        if code != 0 || list.is_null() {
            return Err(code);
        }
        // SAFETY: the library gives a list of `count` entries that lives as long as the backend.
        let entries = unsafe { std::slice::from_raw_parts(list, count as usize) };
        Ok(entries.iter().filter_map(|e| text_of(e[1])).collect())
    }

    pub(super) fn validate(&self, backend: Handle, op: RawOp) -> u64 {
        call!(self, slot::BACKEND_VALIDATE, (Handle, RawOp), (backend, op))
    }

    pub(super) fn context_create(
        &self,
        backend: Handle,
        device: Handle,
        config: *const *const RawConfig,
        out: &mut Handle,
    ) -> u64 {
        call!(
            self,
            slot::CONTEXT_CREATE,
            (Handle, Handle, *const *const RawConfig, *mut Handle),
            (backend, device, config, &raw mut *out)
        )
    }

    pub(super) fn context_binary_size(&self, context: Handle, out: &mut u64) -> u64 {
        call!(self, slot::CONTEXT_BINARY_SIZE, (Handle, *mut u64), (context, &raw mut *out))
    }

    pub(super) fn context_binary(&self, context: Handle, out: &mut [u8], written: &mut u64) -> u64 {
        let (data, len) = (out.as_mut_ptr().cast::<c_void>(), out.len() as u64);
        call!(self, slot::CONTEXT_BINARY, (Handle, *mut c_void, u64, *mut u64), (context, data, len, &raw mut *written))
    }

    pub(super) fn context_from_binary(&self, backend: Handle, device: Handle, bytes: &[u8], out: &mut Handle) -> u64 {
        let (data, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len() as u64);
        let (none, no_profile) = (ptr::null(), ptr::null_mut());
        call!(
            self,
            slot::CONTEXT_FROM_BINARY,
            (Handle, Handle, *const *const RawConfig, *const c_void, u64, *mut Handle, Handle),
            (backend, device, none, data, len, &raw mut *out, no_profile)
        )
    }

    pub(super) fn context_free(&self, context: Handle) -> u64 {
        call!(self, slot::CONTEXT_FREE, (Handle, Handle), (context, ptr::null_mut()))
    }

    pub(super) fn graph_create(
        &self,
        context: Handle,
        name: *const c_char,
        config: *const *const RawConfig,
        out: &mut Handle,
    ) -> u64 {
        call!(
            self,
            slot::GRAPH_CREATE,
            (Handle, *const c_char, *const *const RawConfig, *mut Handle),
            (context, name, config, &raw mut *out)
        )
    }

    pub(super) fn graph_retrieve(&self, context: Handle, name: *const c_char, out: &mut Handle) -> u64 {
        call!(self, slot::GRAPH_RETRIEVE, (Handle, *const c_char, *mut Handle), (context, name, &raw mut *out))
    }

    pub(super) fn tensor_create(&self, graph: Handle, tensor: &mut RawTensor) -> u64 {
        call!(self, slot::TENSOR_CREATE, (Handle, *mut RawTensor), (graph, &raw mut *tensor))
    }

    pub(super) fn add_node(&self, graph: Handle, op: RawOp) -> u64 {
        call!(self, slot::GRAPH_ADD_NODE, (Handle, RawOp), (graph, op))
    }

    pub(super) fn finalize(&self, graph: Handle) -> u64 {
        let (profile, signal) = (ptr::null_mut(), ptr::null_mut());
        call!(self, slot::GRAPH_FINALIZE, (Handle, Handle, Handle), (graph, profile, signal))
    }

    /// Executes. Every buffer of `inputs` and `outputs` must have the bytes that its tensor says: the library does not look.
    pub(super) fn execute(
        &self,
        graph: Handle,
        inputs: &[RawTensor],
        outputs: &mut [RawTensor],
        profile: Handle,
    ) -> u64 {
        let (ins, in_count) = (inputs.as_ptr(), inputs.len() as u32);
        let (outs, out_count) = (outputs.as_mut_ptr(), outputs.len() as u32);
        call!(
            self,
            slot::GRAPH_EXECUTE,
            (Handle, *const RawTensor, u32, *mut RawTensor, u32, Handle, Handle),
            (graph, ins, in_count, outs, out_count, profile, ptr::null_mut())
        )
    }

    pub(super) fn profile_create(&self, backend: Handle, level: u32, out: &mut Handle) -> u64 {
        call!(self, slot::PROFILE_CREATE, (Handle, u32, *mut Handle), (backend, level, &raw mut *out))
    }

    pub(super) fn profile_free(&self, profile: Handle) -> u64 {
        call!(self, slot::PROFILE_FREE, (Handle), (profile))
    }

    /// The events of a profile, or of an event (`sub`).
    pub(super) fn events(&self, of: u64, sub: bool) -> Vec<u64> {
        let (mut list, mut count): (*const u64, u32) = (ptr::null(), 0);
        let at = if sub { slot::PROFILE_SUB_EVENTS } else { slot::PROFILE_EVENTS };
        let code = call!(self, at, (u64, *mut *const u64, *mut u32), (of, &raw mut list, &raw mut count));
        if code != 0 || list.is_null() {
            return Vec::new();
        }
        // SAFETY: the library gives a list of `count` ids that lives as long as the profile.
        unsafe { std::slice::from_raw_parts(list, count as usize) }.to_vec()
    }

    /// What an event says, with its name.
    pub(super) fn event(&self, id: u64) -> Option<(RawProfileEvent, String)> {
        let mut data = RawProfileEvent { kind: 0, unit: 0, value: 0, name: ptr::null() };
        let code = call!(self, slot::PROFILE_EVENT_DATA, (u64, *mut RawProfileEvent), (id, &raw mut data));
        (code == 0).then(|| (data, text_of(data.name).unwrap_or_default()))
    }

    pub(super) fn free(&self, log: Handle, backend: Handle, device: Handle) {
        if !device.is_null() {
            call!(self, slot::DEVICE_FREE, (Handle), (device));
        }
        if !backend.is_null() {
            call!(self, slot::BACKEND_FREE, (Handle), (backend));
        }
        if !log.is_null() {
            call!(self, slot::LOG_FREE, (Handle), (log));
        }
    }
}

/// The system library, which reads context binaries without a device.
pub(super) struct System {
    functions: [*const c_void; SYSTEM_FUNCTIONS],
    pub(super) version: Version,
}

impl System {
    /// Opens the system library.
    pub(super) fn open(path: &Path) -> Result<System, String> {
        let object = Object::open(path)?;
        let raw: *const RawSystemInterface = first_provider(&object, c"QnnSystemInterface_getProviders")?;
        // SAFETY: the interface is static data of the library, at least as long as the slots that are looked at.
        let raw = unsafe { &*raw };
        let system = System { functions: raw.functions, version: version(raw.version) };
        if system.functions.iter().any(|f| f.is_null()) {
            return Err("its interface lacks functions".to_owned());
        }
        Ok(system)
    }

    /// Calls `read` with what the binary says of itself, which is the library's until `read` returns.
    pub(super) fn with_binary<T>(&self, bytes: &[u8], read: impl FnOnce(&RawBinaryInfo) -> T) -> Result<T, u64> {
        let mut context: Handle = ptr::null_mut();
        let code = call!(self, 0, (*mut Handle), (&raw mut context));
        if code != 0 {
            return Err(code);
        }
        let mut info: *const RawBinaryInfo = ptr::null();
        let (data, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len() as u64);
        let code = call!(
            self,
            2,
            (Handle, *const c_void, u64, *mut *const RawBinaryInfo),
            (context, data, len, &raw mut info)
        );
        let result = if code != 0 || info.is_null() {
            Err(code)
        } else {
            // SAFETY: the description lives until its context is freed, below.
            Ok(read(unsafe { &*info }))
        };
        call!(self, 3, (Handle), (context));
        result
    }
}

/// Ends standard input-output buffers of C's library, so that what was printed has been written.
pub(crate) fn flush_printed() {
    // SAFETY: a null stream means all of them.
    let _: c_int = unsafe { libc::fflush(ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_that_are_not_known_are_refused() {
        let core = |major, minor| known(Version { major, minor, patch: 1 });
        assert_eq!((core(2, 36), core(2, 40)), (Ok(()), Ok(())));
        for old_or_other in [core(2, 35), core(1, 99), core(3, 0)] {
            let said = old_or_other.expect_err("it is not known");
            assert!(said.contains("expected 2.36") && said.contains("QNN 2.47"), "{said}");
        }
    }
}
