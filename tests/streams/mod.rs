//! A stream of the host's, and graphs that are captured on it.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::ffi::c_void;

use cudarc::driver::sys;

/// Panics unless the driver did what it was asked.
pub fn ok(result: sys::CUresult) {
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
}

/// A stream of the device's primary context, which is current while this lives.
pub struct Stream {
    pub raw: sys::CUstream,
    device: sys::CUdevice,
}

impl Stream {
    /// A new one.
    pub fn new() -> Self {
        let (mut device, mut context) = (0, std::ptr::null_mut());
        let mut raw = std::ptr::null_mut();
        // SAFETY: places for the handles; the driver is there, for a GPU was opened.
        unsafe {
            ok(sys::cuDeviceGet(&mut device, 0));
            ok(sys::cuDevicePrimaryCtxRetain(&mut context, device));
            ok(sys::cuCtxPushCurrent_v2(context));
            ok(sys::cuStreamCreate(
                &mut raw,
                sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32,
            ));
        }
        Self { raw, device }
    }

    /// As contexts take it.
    pub fn handle(&self) -> *mut c_void {
        self.raw.cast()
    }

    /// What `work` puts on the stream, as a graph that can be launched.
    pub fn capture(&self, work: impl FnOnce()) -> Graph {
        let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        // SAFETY: a stream of ours, and places for the handles.
        unsafe {
            ok(sys::cuStreamBeginCapture_v2(self.raw, mode));
            work();
            ok(sys::cuStreamEndCapture(self.raw, &mut graph));
            ok(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        }
        Graph { graph, exec }
    }

    /// Launches a graph, and waits for it.
    pub fn launch(&self, graph: &Graph) {
        // SAFETY: an instantiated graph.
        unsafe {
            ok(sys::cuGraphLaunch(graph.exec, self.raw));
            ok(sys::cuStreamSynchronize(self.raw));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut context = std::ptr::null_mut();
        // SAFETY: made by `new`, on this thread.
        unsafe {
            ok(sys::cuStreamDestroy_v2(self.raw));
            ok(sys::cuCtxPopCurrent_v2(&mut context));
            ok(sys::cuDevicePrimaryCtxRelease_v2(self.device));
        }
    }
}

/// Kernels that were captured.
pub struct Graph {
    graph: sys::CUgraph,
    pub exec: sys::CUgraphExec,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `capture`.
        unsafe {
            ok(sys::cuGraphExecDestroy(self.exec));
            ok(sys::cuGraphDestroy(self.graph));
        }
    }
}
