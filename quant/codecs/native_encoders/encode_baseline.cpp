/* The encoders for any processor: four lanes of whatever the compiler is set to. */

#define ENCODER_NAME encode_baseline

#include "encode_rows.h"
