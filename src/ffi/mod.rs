//! The C boundary and nothing else: convert, call, convert.
//!
//! Names are those of the header (`mq_*`), so that one search finds a symbol everywhere. The doc
//! comments here become `include/mq.h`; they are the only place where the contract is written.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]
// `@param[in]` is Doxygen's, for the header.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::private_intra_doc_links)]

pub mod auto_quantize;
pub mod calibration;
pub mod callback;
pub mod compress;
pub mod context;
pub mod cuda;
pub mod fake_quant;
pub mod guard;
pub mod layer_desc;
pub mod layer_forward;
pub mod model;
mod options;
pub mod quantizer;
pub mod search_host;
pub mod status;
pub mod tap;
pub mod tensor;
pub mod verb;
